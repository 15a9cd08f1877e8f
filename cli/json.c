/* json.c: reads and writes JSON (RFC 8259).

     text -> an array of Json values, in the order of the text

   Two blocks of memory are allocated before parsing. One is a copy of the text, in which strings are unescaped in place
   (none becomes longer). The other is the array of values. Every value except the first follows a '[', ',' or ':', so
   the number of these characters plus one is enough room. */
#include "json.h"

#include "../model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Parser {
    const char *original, *name;
    size_t size, at;
    char *text;                             /* the copy, zero-terminated */
    Json *values;
    size_t n_values;
    SvError *error;
} Parser;

/* Reports an error at offset `at`, with its line and column. */
static int wrong(const Parser *p, size_t at, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        unsigned char byte = (unsigned char)p->original[i];
        if (byte == '\n') line++, column = 1;
        else column += (byte & 0xc0) != 0x80;               /* counts bytes that begin a character */
    }
    return sv_fail(p->error, "%s: line %zu, column %zu: %s", p->name, line, column, what);
}

static void skip_space(Parser *p) { p->at += strspn(p->text + p->at, " \t\r\n"); }

/* The length of the first UTF-8 character of `size` bytes, or 0 if it is invalid. *character: its code point. */
static size_t utf8_character(const unsigned char *bytes, size_t size, uint32_t *character) {
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    size_t length = bytes[0] < 0x80 ? 1 : bytes[0] < 0xc0 ? 0 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3
                  : bytes[0] < 0xf8 ? 4 : 0;
    if (length == 0 || length > size) return 0;
    uint32_t c = length == 1 ? bytes[0] : bytes[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (bytes[i] & 0x3f);
    }
    if (c < least[length] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    *character = c;
    return length;
}

static char *put_utf8(char *out, uint32_t c) {
    if (c < 0x80) {
        *out++ = (char)c;
        return out;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    *out++ = (char)(unsigned char)((0xff00u >> (more + 1) & 0xff) | c >> 6 * more);
    while (more-- > 0) *out++ = (char)(unsigned char)(0x80 | (c >> 6 * more & 0x3f));
    return out;
}

/* The value of four hexadecimal digits; -1 if they are not all digits. */
static int32_t hex4(const char *digits) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = digits[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                  : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = 16 * value + digit;
    }
    return value;
}

/* Parses the string whose opening quote is at p->at. It is unescaped in place and zero-terminated. */
static int parse_string(Parser *p, const char **text, size_t *size) {
    size_t begin = p->at++;
    char *start = p->text + p->at, *out = start;
    for (;;) {
        unsigned char byte = (unsigned char)p->text[p->at];
        uint32_t character;
        if (p->at == p->size) return wrong(p, begin, "the string that begins here has no end");
        if (byte == '"') break;
        if (byte < 0x20) return wrong(p, p->at, "a control character in a string");
        if (byte != '\\') {
            size_t length = utf8_character((const unsigned char *)p->text + p->at, p->size - p->at, &character);
            if (length == 0) return wrong(p, p->at, "the text is not UTF-8");
            memmove(out, p->text + p->at, length);
            out += length;
            p->at += length;
            continue;
        }
        static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
        char letter = p->text[p->at + 1];
        const char *escape = escapes;
        while (*escape && *escape != letter) escape += 2;
        if (letter && *escape) {
            *out++ = escape[1];
            p->at += 2;
            continue;
        }
        int32_t unit = letter == 'u' ? hex4(p->text + p->at + 2) : -1, low = -1;
        if (letter != 'u') return wrong(p, p->at, "no such escape in a string");
        if (unit < 0) return wrong(p, p->at, "\\u without four hexadecimal digits");
        bool pair = unit >= 0xd800 && unit < 0xdc00;
        if (pair && p->text[p->at + 6] == '\\' && p->text[p->at + 7] == 'u') low = hex4(p->text + p->at + 8);
        if (pair ? low < 0xdc00 || low >= 0xe000 : unit >= 0xdc00 && unit < 0xe000)
            return wrong(p, p->at, "half a surrogate pair");
        character = pair ? 0x10000u + ((uint32_t)(unit - 0xd800) << 10) + (uint32_t)(low - 0xdc00) : (uint32_t)unit;
        out = put_utf8(out, character);
        p->at += pair ? 12 : 6;
    }
    p->at++;
    *out = 0;                                               /* at or before the closing quote's place */
    *text = start;
    *size = (size_t)(out - start);
    return 0;
}

static size_t digits(const char *text) { return strspn(text, "0123456789"); }

static int parse_number(Parser *p, Json *value) {
    const char *begin = p->text + p->at, *end = begin + (*begin == '-');
    if (digits(end) == 0) return wrong(p, p->at, "a value is expected");
    if (*end == '0' && digits(end) > 1) return wrong(p, p->at, "a number that begins with 0");
    end += digits(end);
    if (*end == '.') {
        if (digits(++end) == 0) return wrong(p, p->at, "a number without digits after its point");
        end += digits(end);
    }
    if (*end == 'e' || *end == 'E') {
        end += 1 + (end[1] == '+' || end[1] == '-');
        if (digits(end) == 0) return wrong(p, p->at, "a number without digits in its exponent");
        end += digits(end);
    }
    value->kind = JSON_NUMBER;
    value->text = begin;
    value->size = (size_t)(end - begin);
    value->number = strtod(begin, NULL);
    if (!isfinite(value->number)) return wrong(p, p->at, "a number that is too large");
    p->at += value->size;
    return 0;
}

static int by_key(const void *a, const void *b) {
    const Json *x = *(const Json *const *)a, *y = *(const Json *const *)b;
    int order = memcmp(x->key, y->key, smaller(x->key_size, y->key_size));
    return order ? order : x->key_size < y->key_size ? -1 : x->key_size > y->key_size;
}

/* Fails if an object has a key twice, since parsers disagree on which one counts. */
static int check_keys(const Parser *p, const Json *object, size_t at) {
    const Json **members = malloc((object->count + 1) * sizeof *members);
    if (!members) return sv_fail(p->error, "%s: out of memory", p->name);
    size_t n = 0;
    int result = 0;
    for (const Json *member = object->first; member; member = member->next) members[n++] = member;
    qsort(members, n, sizeof *members, by_key);
    for (size_t i = 1; i < n && result == 0; i++) {
        char what[120];
        if (by_key(&members[i - 1], &members[i]) != 0) continue;
        snprintf(what, sizeof what, "the object has the key \"%.80s\" twice", members[i]->key);
        result = wrong(p, at, what);
    }
    free(members);
    return result;
}

static int parse_value(Parser *p, int depth, Json **value);

/* Parses the rest of an array or an object, after its opening bracket. */
static int parse_list(Parser *p, int depth, Json *list) {
    bool object = list->kind == JSON_OBJECT;
    char close = object ? '}' : ']';
    size_t begin = p->at - 1;
    const Json **link = &list->first;
    if (depth == JSON_DEPTH) return wrong(p, begin, "too many arrays and objects within each other");
    skip_space(p);
    if (p->text[p->at] == close) return p->at++, 0;
    for (;;) {
        const char *key = NULL;
        size_t size = 0;
        Json *item;
        skip_space(p);
        if (object) {
            if (p->text[p->at] != '"') return wrong(p, p->at, "a key in quotes is expected");
            if (parse_string(p, &key, &size) != 0) return -1;
            skip_space(p);
            if (p->text[p->at] != ':') return wrong(p, p->at, "a colon is expected");
            p->at++;
        }
        if (parse_value(p, depth + 1, &item) != 0) return -1;
        item->key = key;
        item->key_size = size;
        *link = item;
        link = &item->next;
        list->count++;
        skip_space(p);
        char next = p->text[p->at];
        if (next != ',' && next != close)
            return wrong(p, p->at, object ? "a comma or } is expected" : "a comma or ] is expected");
        p->at++;
        if (next == close) return object ? check_keys(p, list, begin) : 0;
    }
}

static int parse_value(Parser *p, int depth, Json **value) {
    static const char *const words[] = { [JSON_NULL] = "null", [JSON_FALSE] = "false", [JSON_TRUE] = "true" };
    Json *v = *value = &p->values[p->n_values++];
    skip_space(p);
    char c = p->text[p->at];
    for (int kind = JSON_NULL; kind <= JSON_TRUE; kind++) {
        size_t length = strlen(words[kind]);
        if (strncmp(p->text + p->at, words[kind], length) != 0) continue;
        v->kind = kind;
        p->at += length;
        return 0;
    }
    if (c == '"') {
        v->kind = JSON_STRING;
        return parse_string(p, &v->text, &v->size);
    }
    if (c == '[' || c == '{') {
        v->kind = c == '[' ? JSON_ARRAY : JSON_OBJECT;
        p->at++;
        return parse_list(p, depth, v);
    }
    if (p->at == p->size) return wrong(p, p->at, "the text ends where a value is expected");
    return parse_number(p, v);
}

int json_parse(const char *text, size_t size, const char *name, JsonDocument *document, SvError *error) {
    *document = (JsonDocument){ 0 };
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, size -= 3;       /* a byte order mark */
    size_t most = 1;
    for (size_t i = 0; i < size; i++) most += text[i] == '[' || text[i] == ',' || text[i] == ':';
    Parser p = { .original = text, .name = name, .size = size, .text = malloc(size + 1),
                 .values = calloc(most, sizeof *p.values), .error = error };
    document->text = p.text;
    document->values = p.values;
    int result = 0;
    Json *root = NULL;
    if (!p.text || !p.values) {
        result = sv_fail(error, "%s: out of memory for a JSON text of %zu bytes", name, size);
    } else {
        memcpy(p.text, text, size);
        p.text[size] = 0;
        result = parse_value(&p, 0, &root);
        if (result == 0) skip_space(&p);
        if (result == 0 && p.at < size) result = wrong(&p, p.at, "the text goes on behind its value");
    }
    document->root = root;
    if (result != 0) json_free(document);
    return result;
}

void json_free(JsonDocument *document) {
    free(document->text);
    free(document->values);
    *document = (JsonDocument){ 0 };
}

/* --------------------------------------------------------------------------------------------------- reading values */

const Json *json_get(const Json *object, const char *key) {
    size_t size = strlen(key);
    if (object->kind != JSON_OBJECT) return NULL;
    for (const Json *member = object->first; member; member = member->next)
        if (member->key_size == size && memcmp(member->key, key, size) == 0) return member;
    return NULL;
}

const char *json_kind(const Json *value) {
    static const char *const words[] = { "null", "false", "true", "a number", "a string", "an array", "an object" };
    return words[value->kind];
}

bool json_whole(const Json *value, int64_t low, int64_t high, int64_t *whole) {
    if (value->kind != JSON_NUMBER || value->number != floor(value->number)) return false;
    if (!(value->number >= (double)low && value->number <= (double)high)) return false;
    *whole = (int64_t)value->number;
    return true;
}

bool json_equal(const Json *a, const Json *b) {
    if (a->kind != b->kind || a->count != b->count) return false;
    if (a->kind == JSON_NUMBER) return a->number == b->number;
    if (a->kind == JSON_STRING) return a->size == b->size && memcmp(a->text, b->text, a->size) == 0;
    const Json *other = b->first;
    for (const Json *x = a->first; x; x = x->next, other = other->next) {
        const Json *y = other;
        if (a->kind == JSON_OBJECT)
            for (y = b->first; y && (y->key_size != x->key_size || memcmp(y->key, x->key, x->key_size) != 0); )
                y = y->next;
        if (!y || !json_equal(x, y)) return false;
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------------------- writing */

void json_write_string(JsonOut *put, void *to, const char *text, size_t size) {
    const unsigned char *at = (const unsigned char *)text;
    put(to, "\"", 1);
    while (size > 0) {
        uint32_t character;
        char escape[8];
        size_t length = utf8_character(at, size, &character);
        if (length == 0) put(to, "\xef\xbf\xbd", 3), length = 1;
        else if (*at == '\n') put(to, "\\n", 2);
        else if (*at == '"' || *at == '\\') put(to, (char[]){ '\\', (char)*at }, 2);
        else if (*at < 32 || *at == 127) put(to, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", *at));
        else put(to, (const char *)at, length);
        at += length;
        size -= length;
    }
    put(to, "\"", 1);
}

void json_write(JsonOut *put, void *to, const Json *value) {
    static const char *const words[] = { "null", "false", "true" };
    bool object = value->kind == JSON_OBJECT;
    if (value->kind <= JSON_TRUE) put(to, words[value->kind], strlen(words[value->kind]));
    else if (value->kind == JSON_NUMBER) put(to, value->text, value->size);
    else if (value->kind == JSON_STRING) json_write_string(put, to, value->text, value->size);
    if (value->kind <= JSON_STRING) return;
    put(to, object ? "{" : "[", 1);
    for (const Json *item = value->first; item; item = item->next) {
        if (item != value->first) put(to, ", ", 2);
        if (object) {
            json_write_string(put, to, item->key, item->key_size);
            put(to, ": ", 2);
        }
        json_write(put, to, item);
    }
    put(to, object ? "}" : "]", 1);
}

static void put_file(void *to, const char *data, size_t size) { fwrite(data, 1, size, to); }
void json_put_string(FILE *file, const char *text, size_t size) { json_write_string(put_file, file, text, size); }
void json_put(FILE *file, const Json *value) { json_write(put_file, file, value); }

void json_to_bytes(void *to, const char *data, size_t size) { sv_put(to, data, size); }
