/* json.h: a small reader and writer of JSON (RFC 8259). It needs no other file of this folder. */
#ifndef SV_JSON_H
#define SV_JSON_H

#include "../smolvlm.h"

#include <stdio.h>

/* A value, with its place in the object or array that contains it. The members of an object and the items of an array
   form a linked list, in their order. */
enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
typedef struct Json Json;
struct Json {
    int kind;
    const char *key;            /* if it is a member of an object: UTF-8, zero-terminated; otherwise NULL           */
    size_t key_size;            /* a key or a string may contain zero bytes                                         */
    const char *text;           /* a string: UTF-8, zero-terminated; a number: its digits, not terminated           */
    size_t size;                /* ... its length in bytes                                                          */
    double number;              /* finite                                                                           */
    size_t count;               /* number of members or items                                                       */
    const Json *first, *next;   /* ... the first of them; the value after this one in its own list                  */
};

/* Parses one JSON text in UTF-8. Fails if arrays and objects are nested deeper than JSON_DEPTH, if an object has a key
   twice, or if a number exceeds a double's range. It allocates at most the text's size, and 72 bytes for each comma,
   colon and bracket in it. name: what errors call the text; they also give the line and the column, in characters. The
   caller frees *document, and with it all values. */
#define JSON_DEPTH 128
typedef struct JsonDocument { const Json *root; void *text, *values; } JsonDocument;
int json_parse(const char *text, size_t size, const char *name, JsonDocument *document, SvError *error);
void json_free(JsonDocument *document);

/* The member of this name; NULL if there is none, or if the value is not an object. */
const Json *json_get(const Json *object, const char *key);

/* A value's kind in words, for errors: "a string", "an object", ... */
const char *json_kind(const Json *value);

/* Whether it is a whole number from low to high (both within +-2^53). If so, stores it in *whole. */
bool json_whole(const Json *value, int64_t low, int64_t high, int64_t *whole);

bool json_equal(const Json *a, const Json *b);              /* ignores the order of members */

/* Write a string in quotes, with U+FFFD for bytes that are not UTF-8; write a value on one line. They call put with
   each piece of the output. json_to_bytes is such a function; its `to` is an SvBytes of model.h. */
typedef void JsonOut(void *to, const char *data, size_t size);
void json_write_string(JsonOut *put, void *to, const char *text, size_t size);
void json_write(JsonOut *put, void *to, const Json *value);
void json_to_bytes(void *to, const char *data, size_t size);

void json_put_string(FILE *file, const char *text, size_t size);
void json_put(FILE *file, const Json *value);

#endif
