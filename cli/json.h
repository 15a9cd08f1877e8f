/* json.h: JSON (RFC 8259) read and written, by one small parser. It needs no other file of this folder. */
#ifndef SV_JSON_H
#define SV_JSON_H

#include "../smolvlm.h"

#include <stdio.h>

/* A value, and whose member or item it is. An object's members and an array's items are a list, in their order. */
enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };
typedef struct Json Json;
struct Json {
    int kind;
    const char *key;            /* of an object's member: UTF-8, zero-terminated; NULL elsewhere                    */
    size_t key_size;            /* a key and a string may have zero bytes in them                                   */
    const char *text;           /* a string's characters, UTF-8, zero-terminated; a number as written (no zero)     */
    size_t size;                /* ... and how many bytes they are                                                  */
    double number;              /* finite                                                                           */
    size_t count;               /* how many members or items                                                        */
    const Json *first, *next;   /* ... the first of them; the next one of the list that this value is in            */
};

/* Reads one JSON text: UTF-8, at most JSON_DEPTH arrays and objects within each other, no key twice in an object, no
   number beyond a double's range. It takes at most the text's size and 72 bytes for each comma, colon and bracket in
   it. name stands for the text in the error's sentence, which tells line and column (in characters). The caller frees
   *document; its root and all below live as long. */
#define JSON_DEPTH 128
typedef struct JsonDocument { const Json *root; void *text, *values; } JsonDocument;
int json_parse(const char *text, size_t size, const char *name, JsonDocument *document, SvError *error);
void json_free(JsonDocument *document);

/* The member of this name; NULL if there is none or the value is no object. */
const Json *json_get(const Json *object, const char *key);

/* A value's kind, in words for an error: "a string", "an object", ... */
const char *json_kind(const Json *value);

/* Whether it is a number without a fraction from low to high (both within +-2^53): then it is *whole. */
bool json_whole(const Json *value, int64_t low, int64_t high, int64_t *whole);

bool json_equal(const Json *a, const Json *b);              /* the same value, whatever the order of members */

/* Writes a string with its quotes, what is not UTF-8 as U+FFFD; a value again, on one line. put is called with pieces;
   json_to_bytes is one, to an SvBytes of model.h. */
typedef void JsonOut(void *to, const char *data, size_t size);
void json_write_string(JsonOut *put, void *to, const char *text, size_t size);
void json_write(JsonOut *put, void *to, const Json *value);
void json_to_bytes(void *to, const char *data, size_t size);

void json_put_string(FILE *file, const char *text, size_t size);
void json_put(FILE *file, const Json *value);

#endif
