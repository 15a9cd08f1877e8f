/* schema.c: a JSON Schema as an automaton over bytes, and the tokens that it allows.

     {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
       | schema_new: a node for each part of it
       v
     object("total": number)
       | schema_step, byte by byte: a stack of what stands open              { " t o t a l " : 4 2 }
       v
     object: in the value of "total"; number: two digits
       | guide_mask: the vocabulary, sorted by its bytes, is walked with the automaton: a prefix that fails takes all
       | tokens with it; inside a string most tokens are known to change nothing; and each state's mask is kept
       v
     logits, -INFINITY where a token must not follow

   The text is JSON as most models write it: the members in the schema's order, at most one space behind a comma, behind
   a colon and at the very beginning, no other white space. Numbers have at most 15 digits before and behind the point
   and an exponent of at most 2. An escape \u is never half of a surrogate pair. */
#include "schema.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------- the schema, read */

enum { STRING, NUMBER, INTEGER, LITERALS, ARRAY, OBJECT, MAP, UNION };
enum { NEVER = 1 << 30 };                                   /* the cost of what does not end */
enum { LONGEST = 60000 };                                   /* a key or a literal, in bytes */

/* texts: literals as they are written, or an object's keys, with their quotes. children: the values of an object's
   keys, a union's alternatives; of an array or a map, one. first: bytes that it may begin with. cost: bytes of its
   shortest text. deep: how many frames the flattest text needs. rest: of an object, to its end from key i on, with a
   comma before each. */
typedef struct Node {
    int kind, n;
    SvBytes *texts;
    uint16_t *children;
    bool *required;
    uint32_t *rest;
    int64_t least, most;                                    /* items of an array; most < 0: any number */
    uint32_t first[8], cost, deep;
} Node;

struct Schema { Node *node; int n_nodes, root, string, any; };   /* string: any, for keys of maps */

typedef struct Reader {
    const Json *root;
    Schema *schema;
    const Json **seen;                                      /* the schemas that were read, and their nodes */
    int *node_of, n_seen, depth;
    SvError *error;
} Reader;

static int read_schema(Reader *r, const Json *json, const char *name);

static int out_of_memory(const Reader *r) { return sv_fail(r->error, "out of memory for the schema"); }

/* A new node with room for n texts and children; -1 if there are too many. */
static int new_node(Reader *r, int kind, size_t n) {
    Schema *s = r->schema;
    if (s->n_nodes == UINT16_MAX || n >= UINT16_MAX) return sv_fail(r->error, "the schema is too large");
    Node *grown = realloc(s->node, ((size_t)s->n_nodes + 1) * sizeof *grown);
    if (!grown) return out_of_memory(r);
    s->node = grown;
    Node *node = &s->node[s->n_nodes];
    *node = (Node){ .kind = kind, .n = (int)n, .most = -1, .cost = NEVER, .deep = NEVER };
    s->n_nodes++;
    node->texts = calloc(n + 1, sizeof *node->texts);
    node->children = calloc(n + 1, sizeof *node->children);
    node->required = calloc(n + 1, sizeof *node->required);
    node->rest = calloc(n + 1, sizeof *node->rest);
    if (!node->texts || !node->children || !node->required || !node->rest) return out_of_memory(r);
    return s->n_nodes - 1;
}

void schema_free(Schema *s) {
    for (int i = 0; s && i < s->n_nodes; i++) {
        Node *node = &s->node[i];
        for (int t = 0; node->texts && t < node->n; t++) free(node->texts[t].data);
        free(node->texts);
        free(node->children);
        free(node->required);
        free(node->rest);
    }
    if (s) free(s->node);
    free(s);
}

/* Literals of constant words. */
static int new_words(Reader *r, int n, const char *const *words) {
    int at = new_node(r, LITERALS, (size_t)n);
    for (int i = 0; i < n && at >= 0; i++) {
        SvBytes *text = &r->schema->node[at].texts[i];
        sv_put(text, words[i], strlen(words[i]));
        if (text->failed) return out_of_memory(r);
    }
    return at;
}

static int new_container(Reader *r, int kind, int child) {
    int at = child < 0 ? -1 : new_node(r, kind, 1);
    if (at >= 0) r->schema->node[at].children[0] = (uint16_t)child;
    return at;
}

/* Any value at all: a node that is made once, its parts before it but for what is in arrays and objects. */
static int any_value(Reader *r) {
    static const char *const words[] = { "true", "false", "null" };
    if (r->schema->any >= 0) return r->schema->any;
    int any = r->schema->any = new_node(r, UNION, 5);
    int parts[5] = { -1, -1, -1, -1, -1 };
    if (any >= 0) parts[0] = new_node(r, STRING, 0);
    if (parts[0] >= 0) parts[1] = new_node(r, NUMBER, 0);
    if (parts[1] >= 0) parts[2] = new_words(r, 3, words);
    if (parts[2] >= 0) parts[3] = new_container(r, ARRAY, any);
    if (parts[3] >= 0) parts[4] = new_container(r, MAP, any);
    if (parts[4] < 0) return -1;
    for (int i = 0; i < 5; i++) r->schema->node[any].children[i] = (uint16_t)parts[i];
    return any;
}

/* Whether JSON Schema calls the value by this type. */
static bool is_type(const Json *value, const char *type) {
    static const char *const types[] = { "null", "boolean", "boolean", "number", "string", "array", "object" };
    if (strcmp(type, "integer") == 0) return value->kind == JSON_NUMBER && value->number == floor(value->number);
    return strcmp(types[value->kind], type) == 0;
}

static bool has_type(const Json *value, const Json *type) {
    bool found = !type;
    if (type && type->kind == JSON_STRING) found = is_type(value, type->text);
    for (const Json *t = type ? type->first : NULL; t && !found; t = t->next)
        found = t->kind == JSON_STRING && is_type(value, t->text);
    return found;
}

/* "enum" and "const": of its values those that "type" lets through. */
static int read_literals(Reader *r, const Json *values, bool one, const Json *type, const char *name) {
    size_t count = one ? 1 : values->count, kept = 0;
    if (!one && values->kind != JSON_ARRAY) return sv_fail(r->error, "%s: \"enum\" must be an array", name);
    int at = new_node(r, LITERALS, count);
    if (at < 0) return -1;
    for (const Json *value = one ? values : values->first; value; value = one ? NULL : value->next) {
        SvBytes text = { 0 };
        if (!has_type(value, type)) continue;
        json_write(json_to_bytes, &text, value);
        bool twice = false;
        for (size_t i = 0; i < kept && !text.failed; i++)
            twice = twice || strcmp(r->schema->node[at].texts[i].data, text.data) == 0;
        if (text.size > LONGEST) sv_fail(r->error, "%s: a value that is too long", name);
        else if (text.failed) out_of_memory(r);
        if (twice || text.failed || text.size > LONGEST) free(text.data);
        if (text.failed || text.size > LONGEST) return -1;
        if (!twice) r->schema->node[at].texts[kept++] = text;
    }
    r->schema->node[at].n = (int)kept;
    if (kept == 0) return sv_fail(r->error, "%s: no value fits", name);
    return at;
}

static int read_array(Reader *r, const Json *json, const char *name) {
    const Json *items = json_get(json, "items"), *unique = json_get(json, "uniqueItems");
    const Json *least = json_get(json, "minItems"), *most = json_get(json, "maxItems");
    int64_t low = 0, high = -1;
    char inner[200];
    if (unique && unique->kind != JSON_FALSE) return sv_fail(r->error, "%s: \"uniqueItems\" is not done here", name);
    if ((least && !json_whole(least, 0, 60000, &low)) || (most && !json_whole(most, 0, 60000, &high)))
        return sv_fail(r->error, "%s: \"minItems\" and \"maxItems\" must be whole numbers up to 60000", name);
    if (high >= 0 && high < low) return sv_fail(r->error, "%s: no value fits", name);
    snprintf(inner, sizeof inner, "%.180s/items", name);
    int child = items ? read_schema(r, items, inner) : any_value(r), at = new_container(r, ARRAY, child);
    if (at < 0) return -1;
    r->schema->node[at].least = low;
    r->schema->node[at].most = high;
    return at;
}

static bool same_text(const Json *text, const Json *member) {
    return text->size == member->key_size && memcmp(text->text, member->key, text->size) == 0;
}

static int read_object(Reader *r, const Json *json, const char *name) {
    const Json *properties = json_get(json, "properties"), *required = json_get(json, "required");
    const Json *others = json_get(json, "additionalProperties");
    bool closed = others && others->kind == JSON_FALSE, open = !others || others->kind == JSON_TRUE;
    char inner[200];
    if (properties && properties->kind != JSON_OBJECT)
        return sv_fail(r->error, "%s: \"properties\" must be an object", name);
    if (required && required->kind != JSON_ARRAY) return sv_fail(r->error, "%s: \"required\" must be an array", name);
    size_t n = properties ? properties->count : 0;
    for (const Json *key = required ? required->first : NULL; key; key = key->next) {
        const Json *p = properties ? properties->first : NULL;
        if (key->kind != JSON_STRING)
            return sv_fail(r->error, "%s: \"required\" has something other than a string", name);
        while (p && !same_text(key, p)) p = p->next;
        if (!p) return sv_fail(r->error, "%s: \"%.60s\" is required, but is no property", name, key->text);
    }
    if (n == 0 && !closed) {
        snprintf(inner, sizeof inner, "%.170s/additionalProperties", name);
        return new_container(r, MAP, open ? any_value(r) : read_schema(r, others, inner));
    }
    if (!closed && !open)
        return sv_fail(r->error, "%s: \"additionalProperties\" with a schema, beside \"properties\", is not done here",
                       name);
    int at = new_node(r, OBJECT, n), i = 0;
    for (const Json *p = n ? properties->first : NULL; p && at >= 0; p = p->next, i++) {
        snprintf(inner, sizeof inner, "%.100s/properties/%.60s", name, p->key);
        int child = read_schema(r, p, inner);
        if (child < 0) return -1;
        Node *node = &r->schema->node[at];                  /* which may have moved */
        node->children[i] = (uint16_t)child;
        json_write_string(json_to_bytes, &node->texts[i], p->key, p->key_size);
        if (node->texts[i].failed) return out_of_memory(r);
        if (node->texts[i].size > LONGEST) return sv_fail(r->error, "%s: a key that is too long", name);
        for (const Json *key = required ? required->first : NULL; key; key = key->next)
            node->required[i] = node->required[i] || same_text(key, p);
    }
    return at;
}

static int read_alternatives(Reader *r, const Json *list, const char *keyword, const char *name) {
    char inner[200];
    if (list->kind != JSON_ARRAY || list->count == 0)
        return sv_fail(r->error, "%s: \"%s\" must be an array with something in it", name, keyword);
    int at = new_node(r, UNION, list->count), i = 0;
    for (const Json *one = list->first; one && at >= 0; one = one->next, i++) {
        snprintf(inner, sizeof inner, "%.150s/%s/%d", name, keyword, i);
        int child = read_schema(r, one, inner);
        if (child < 0) return -1;
        r->schema->node[at].children[i] = (uint16_t)child;
    }
    return at;
}

static int read_type(Reader *r, const Json *json, const char *type, const char *name) {
    static const char *const words[] = { "true", "false", "null" };
    if (strcmp(type, "string") == 0) return new_node(r, STRING, 0);
    if (strcmp(type, "number") == 0) return new_node(r, NUMBER, 0);
    if (strcmp(type, "integer") == 0) return new_node(r, INTEGER, 0);
    if (strcmp(type, "boolean") == 0) return new_words(r, 2, words);
    if (strcmp(type, "null") == 0) return new_words(r, 1, words + 2);
    if (strcmp(type, "array") == 0) return read_array(r, json, name);
    if (strcmp(type, "object") == 0) return read_object(r, json, name);
    return sv_fail(r->error, "%s: there is no type \"%.40s\"", name, type);
}

static int read_types(Reader *r, const Json *json, const Json *types, const char *name) {
    if (types->kind != JSON_ARRAY || types->count == 0)
        return sv_fail(r->error, "%s: \"type\" must be a string or an array of strings", name);
    int at = new_node(r, UNION, types->count), i = 0;
    for (const Json *type = types->first; type && at >= 0; type = type->next, i++) {
        if (type->kind != JSON_STRING) return sv_fail(r->error, "%s: \"type\" has something other than a string", name);
        int child = read_type(r, json, type->text, name);
        if (child < 0) return -1;
        r->schema->node[at].children[i] = (uint16_t)child;
    }
    return at;
}

/* What "$ref" names: "#", or a path of keys from there; "~1" and "~0" in it are / and ~. NULL if there is none. */
static const Json *referred(const Json *root, const char *path) {
    const Json *at = *path == '#' ? root : NULL;
    path++;
    while (at && *path) {
        char key[200];
        size_t n = 0;
        if (*path++ != '/') return NULL;
        for (; *path && *path != '/' && n + 1 < sizeof key; path++) {
            bool escape = path[0] == '~' && (path[1] == '0' || path[1] == '1');
            if (escape) path++;
            key[n++] = escape ? (*path == '1' ? '/' : '~') : *path;
        }
        key[n] = 0;
        at = json_get(at, key);
    }
    return at;
}

/* Which keywords there are beside those that say nothing about a value. */
static int check_keywords(const Reader *r, const Json *json, const char *name, const char *only) {
    static const char *const silent[] = { "title", "description", "default", "examples", "$schema", "$id", "$comment",
                                          "deprecated", "readOnly", "writeOnly", "$defs", "definitions", NULL };
    static const char *const done[] = { "type", "properties", "required", "additionalProperties", "items", "minItems",
                                        "maxItems", "uniqueItems", NULL };
    for (const Json *member = json->first; member; member = member->next) {
        bool known = only && (strcmp(member->key, only) == 0 || (*only != '$' && strcmp(member->key, "type") == 0));
        for (int i = 0; silent[i] && !known; i++) known = strcmp(silent[i], member->key) == 0;
        for (int i = 0; !only && done[i] && !known; i++) known = strcmp(done[i], member->key) == 0;
        if (!known && only)
            return sv_fail(r->error, "%s: \"%.60s\" beside \"%s\" is not done here", name, member->key, only);
        if (!known) return sv_fail(r->error, "%s: \"%.60s\" is not done here", name, member->key);
    }
    return 0;
}

static int read_keywords(Reader *r, const Json *json, const char *name) {
    static const char *const alone[] = { "$ref", "enum", "const", "anyOf", "oneOf", "allOf" };
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
        const Json *value = json_get(json, alone[i]);
        if (!value) continue;
        if (check_keywords(r, json, name, alone[i]) != 0) return -1;
        if (i == 1 || i == 2) return read_literals(r, value, i == 2, json_get(json, "type"), name);
        if (json_get(json, "type"))
            return sv_fail(r->error, "%s: \"type\" beside \"%s\" is not done here", name, alone[i]);
        if (i == 3 || i == 4) return read_alternatives(r, value, alone[i], name);
        if (i == 5 && value->kind == JSON_ARRAY && value->count == 1) return read_schema(r, value->first, name);
        if (i == 5) return sv_fail(r->error, "%s: \"allOf\" of more than one schema is not done here", name);
        const Json *target = value->kind == JSON_STRING ? referred(r->root, value->text) : NULL;
        if (!target) return sv_fail(r->error, "%s: \"$ref\" leads to nothing in the schema", name);
        return read_schema(r, target, value->text);
    }
    if (check_keywords(r, json, name, NULL) != 0) return -1;
    const Json *type = json_get(json, "type");
    if (type && type->kind != JSON_STRING) return read_types(r, json, type, name);
    if (type) return read_type(r, json, type->text, name);
    if (json_get(json, "properties") || json_get(json, "required") || json_get(json, "additionalProperties"))
        return read_object(r, json, name);
    if (json_get(json, "items") || json_get(json, "minItems") || json_get(json, "maxItems"))
        return read_array(r, json, name);
    return any_value(r);
}

/* The node of a schema; name: where it stands, for errors. One that is referred to from within itself is an alternative
   of one, whose node is known before it has been read. */
static int read_schema(Reader *r, const Json *json, const char *name) {
    if (json->kind == JSON_TRUE) return any_value(r);
    if (json->kind == JSON_FALSE) return sv_fail(r->error, "%s: no value fits", name);
    if (json->kind != JSON_OBJECT)
        return sv_fail(r->error, "%s: %s, but must be an object, true or false", name, json_kind(json));
    for (int i = 0; i < r->n_seen; i++)
        if (r->seen[i] == json) return r->node_of[i];
    const Json **seen = realloc(r->seen, ((size_t)r->n_seen + 1) * sizeof *seen);
    if (seen) r->seen = seen;
    int *node_of = realloc(r->node_of, ((size_t)r->n_seen + 1) * sizeof *node_of);
    if (node_of) r->node_of = node_of;
    if (!seen || !node_of) return out_of_memory(r);
    int at = new_node(r, UNION, 1);
    if (at < 0) return -1;
    r->seen[r->n_seen] = json;
    r->node_of[r->n_seen++] = at;
    if (++r->depth > 4 * JSON_DEPTH) return sv_fail(r->error, "%s: too deep", name);
    int child = read_keywords(r, json, name);
    r->depth--;
    if (child < 0) return -1;
    r->schema->node[at].children[0] = (uint16_t)child;
    return at;
}

static void add_byte(uint32_t *set, int byte) { set[byte >> 5] |= 1u << (byte & 31); }
static bool has_byte(const uint32_t *set, int byte) { return set[byte >> 5] >> (byte & 31) & 1; }

static uint32_t sum(uint32_t a, uint32_t b) { return a + b < NEVER ? a + b : NEVER; }
static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* What a node costs and begins with, as far as its children are known. Returns true if that is news. */
static bool settle(Schema *s, Node *node) {
    uint32_t cost = NEVER, deep = 1, first[8];
    memcpy(first, node->first, sizeof first);
    const Node *child = node->kind == ARRAY || node->kind == MAP ? &s->node[node->children[0]] : NULL;
    switch (node->kind) {
    case STRING: cost = 2, add_byte(first, '"'); break;
    case NUMBER: case INTEGER:
        cost = 1, add_byte(first, '-');
        for (int digit = '0'; digit <= '9'; digit++) add_byte(first, digit);
        break;
    case LITERALS:
        for (int i = 0; i < node->n; i++) {
            if (node->texts[i].size < cost) cost = (uint32_t)node->texts[i].size;
            add_byte(first, (uint8_t)node->texts[i].data[0]);
        }
        break;
    case ARRAY:
        cost = 2, add_byte(first, '[');
        for (int64_t i = 0; i < node->least && cost < NEVER; i++) cost = sum(cost, child->cost + (i > 0));
        if (node->least > 0) deep = sum(1, child->deep);
        break;
    case OBJECT:
        add_byte(first, '{');
        node->rest[node->n] = 1;
        for (int i = node->n - 1; i >= 0; i--) {
            uint32_t own = sum((uint32_t)node->texts[i].size + 2, s->node[node->children[i]].cost);
            node->rest[i] = node->required[i] ? sum(node->rest[i + 1], own) : node->rest[i + 1];
            if (node->required[i]) deep = larger(deep, sum(1, s->node[node->children[i]].deep));
        }
        cost = sum(1, node->rest[0]) - (node->rest[0] > 1 && node->rest[0] < NEVER);    /* no comma before the first */
        break;
    case MAP: cost = 2, add_byte(first, '{'); break;
    case UNION:
        deep = NEVER;
        for (int i = 0; i < node->n; i++) {
            const Node *one = &s->node[node->children[i]];
            if (one->cost < cost) cost = one->cost;
            if (one->deep < deep) deep = one->deep;
            for (int k = 0; k < 8; k++) first[k] |= one->first[k];
        }
        break;
    }
    bool news = cost != node->cost || deep != node->deep || memcmp(first, node->first, sizeof first) != 0;
    node->cost = cost;
    node->deep = deep;
    memcpy(node->first, first, sizeof first);
    return news;
}

/* Refuses what does not end, and alternatives that begin alike, between which the first byte must choose. */
static int check_nodes(const Schema *s, SvError *error) {
    for (int i = 0; i < s->n_nodes; i++) {
        const Node *node = &s->node[i];
        uint32_t begins[8] = { 0 };
        if (node->cost >= NEVER) return sv_fail(error, "the schema has a part of which no text comes to an end");
        for (int c = 0; c < node->n && node->kind == UNION; c++) {
            const Node *one = &s->node[node->children[c]];
            for (int k = 0; k < 8; k++) {
                if (begins[k] & one->first[k])
                    return sv_fail(error, "the schema has alternatives that begin alike, which is not done here");
                begins[k] |= one->first[k];
            }
        }
    }
    return 0;
}

int schema_new(const Json *json, Schema **schema, SvError *error) {
    Reader r = { .root = json, .error = error, .schema = calloc(1, sizeof *r.schema) };
    *schema = NULL;
    if (!r.schema) return out_of_memory(&r);
    r.schema->any = -1;
    int result = (r.schema->string = new_node(&r, STRING, 0)) < 0 ? -1 : 0;
    if (result == 0) result = (r.schema->root = read_schema(&r, json, "#")) < 0 ? -1 : 0;
    for (bool news = result == 0; news; ) {
        news = false;
        for (int i = r.schema->n_nodes - 1; i >= 0; i--) news = settle(r.schema, &r.schema->node[i]) || news;
    }
    if (result == 0) result = check_nodes(r.schema, error);
    if (result == 0 && r.schema->node[r.schema->root].deep > SCHEMA_DEPTH)
        result = sv_fail(error, "the schema needs more than %d values within each other", SCHEMA_DEPTH);
    free(r.seen);
    free(r.node_of);
    if (result == 0) *schema = r.schema;
    else schema_free(r.schema);
    return result;
}

/* --------------------------------------------------------------------------------------------------- the automaton */

/* What a frame's value has had so far. BEGIN: nothing, or a space if `space` allows one. */
enum {
    BEGIN,
    S_IN, S_ESCAPE, S_HEX4, S_HEX3, S_HEX3_LOW, S_HEX2, S_HEX1,     /* \u: digits to come; LOW: 0 to 7, no surrogate */
    S_1, S_2, S_3, S_E0, S_ED, S_F0, S_F4,                              /* UTF-8: bytes to come, or what came first */
    N_MINUS, N_ZERO, N_WHOLE, N_POINT, N_FRACTION, N_E, N_SIGN, N_EXPONENT,         /* at: how many digits */
    L_IN,                               /* item: the first literal that begins as the text does, by `length` bytes */
    A_OPEN, A_ITEM,                         /* at: how many items, as far as it matters */
    O_OPEN, O_NEXT, O_KEY, O_COLON, O_VALUE,    /* at: the first key that may come; item, length: as of a literal */
    M_OPEN, M_NEXT, M_COLON, M_VALUE
};
enum { WHOLE_DIGITS = 15, FRACTION_DIGITS = 15, EXPONENT_DIGITS = 2 };

static bool is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }
static bool is_hex(uint8_t byte) { return is_digit(byte) || ((byte | 32) >= 'a' && (byte | 32) <= 'f'); }

static bool push(SchemaState *state, int node, int phase, bool space) {
    if (state->depth == SCHEMA_DEPTH) return false;
    state->frame[state->depth++] = (SchemaFrame){ .node = (uint16_t)node, .phase = (uint8_t)phase, .space = space };
    return true;
}

/* Whether a value of this node can still be completed at this depth. So no text is led to where it cannot end. */
static bool has_room(const Schema *schema, int depth, int node) {
    return (uint32_t)depth + schema->node[node].deep <= SCHEMA_DEPTH;
}

SchemaState schema_begin(const Schema *schema) {
    SchemaState state = { 0 };
    push(&state, schema->root, BEGIN, true);
    return state;
}

static bool in_range(uint8_t byte, uint8_t low, uint8_t high) { return byte >= low && byte <= high; }

/* Sets the phase and returns true, or false without a phase. */
static bool go(SchemaFrame *f, bool possible, int phase) {
    if (possible) f->phase = (uint8_t)phase;
    return possible;
}

static bool step_string(SchemaState *state, SchemaFrame *f, uint8_t byte) {
    switch (f->phase) {
    case S_IN:
        if (byte == '"') return state->depth--, true;
        if (byte == '\\') return go(f, true, S_ESCAPE);
        if (byte < 0x80) return byte >= 0x20;
        return go(f, in_range(byte, 0xc2, 0xf4), byte < 0xe0 ? S_1 : byte == 0xe0 ? S_E0 : byte == 0xed ? S_ED :
                  byte < 0xf0 ? S_2 : byte == 0xf0 ? S_F0 : byte < 0xf4 ? S_3 : S_F4);
    case S_ESCAPE: return go(f, byte && strchr("\"\\/bfnrtu", byte), byte == 'u' ? S_HEX4 : S_IN);
    case S_HEX4: return go(f, is_hex(byte), (byte | 32) == 'd' ? S_HEX3_LOW : S_HEX3);
    case S_HEX3: return go(f, is_hex(byte), S_HEX2);
    case S_HEX3_LOW: return go(f, in_range(byte, '0', '7'), S_HEX2);
    case S_HEX2: return go(f, is_hex(byte), S_HEX1);
    case S_HEX1: return go(f, is_hex(byte), S_IN);
    case S_1: return go(f, in_range(byte, 0x80, 0xbf), S_IN);
    case S_2: return go(f, in_range(byte, 0x80, 0xbf), S_1);
    case S_3: return go(f, in_range(byte, 0x80, 0xbf), S_2);
    case S_E0: return go(f, in_range(byte, 0xa0, 0xbf), S_1);
    case S_ED: return go(f, in_range(byte, 0x80, 0x9f), S_1);
    case S_F0: return go(f, in_range(byte, 0x90, 0xbf), S_2);
    case S_F4: return go(f, in_range(byte, 0x80, 0x8f), S_2);
    default: return false;
    }
}

/* One more digit, if there may be one. */
static bool digit(SchemaFrame *f, uint8_t byte, int phase, int most) {
    if (!is_digit(byte) || (f->phase == phase && f->at == most)) return false;
    f->at = f->phase == phase ? f->at + 1 : 1;
    f->phase = (uint8_t)phase;
    return true;
}

static bool number_complete(const SchemaFrame *f) {
    return f->phase == N_ZERO || f->phase == N_WHOLE || f->phase == N_FRACTION || f->phase == N_EXPONENT;
}

static bool step_number(SchemaFrame *f, bool whole, uint8_t byte) {
    bool behind_digits = number_complete(f) && f->phase != N_EXPONENT && !whole;
    if (behind_digits && f->phase != N_FRACTION && byte == '.') return go(f, true, N_POINT);
    if (behind_digits && (byte | 32) == 'e') return go(f, true, N_E);
    switch (f->phase) {
    case BEGIN:
        if (byte == '-') return go(f, true, N_MINUS);
        /* fall through */
    case N_MINUS:
        if (byte == '0') return go(f, true, N_ZERO);
        /* fall through */
    case N_WHOLE: return digit(f, byte, N_WHOLE, WHOLE_DIGITS);
    case N_POINT: case N_FRACTION: return digit(f, byte, N_FRACTION, FRACTION_DIGITS);
    case N_E:
        if (byte == '+' || byte == '-') return go(f, true, N_SIGN);
        /* fall through */
    case N_SIGN: case N_EXPONENT: return digit(f, byte, N_EXPONENT, EXPONENT_DIGITS);
    default: return false;
    }
}

static bool begins_alike(const SvBytes *a, const SvBytes *b, size_t length) {
    return a->size >= length && memcmp(a->data, b->data, length) == 0;
}

/* The first of the texts from..to that begins as text f->item does, by f->length bytes, and goes on with byte; -1 if
   none does. */
static int next_text(const Node *node, const SchemaFrame *f, int from, int to, uint8_t byte) {
    for (int i = from; i < to; i++) {
        const SvBytes *text = &node->texts[i];
        if (text->size > f->length && (uint8_t)text->data[f->length] == byte &&
            begins_alike(text, &node->texts[f->item], f->length)) return i;
    }
    return -1;
}

/* Whether one of the literals has been written as a whole; *more: whether another goes on. */
static bool literal_complete(const Node *node, const SchemaFrame *f, bool *more) {
    bool complete = false;
    *more = false;
    for (int i = 0; i < node->n && f->phase == L_IN; i++) {
        if (!begins_alike(&node->texts[i], &node->texts[f->item], f->length)) continue;
        if (node->texts[i].size == f->length) complete = true;
        else *more = true;
    }
    return complete;
}

static bool step_literal(SchemaState *state, const Node *node, SchemaFrame *f, uint8_t byte) {
    bool more;
    int next = next_text(node, f, 0, node->n, byte);
    if (next < 0) return false;
    f->phase = L_IN;
    f->item = (uint16_t)next;
    f->length++;
    if (literal_complete(node, f, &more) && !more) state->depth--;
    return true;
}

/* The last key that may come next, of those from f->at on, and one more: what is required cannot be left out. */
static int last_key(const Node *node, const SchemaFrame *f) {
    int last = f->at;
    while (last < node->n && !node->required[last]) last++;
    return last < node->n ? last + 1 : node->n;
}

/* Whether one of the keys that may come next has a value that has room. */
static bool has_key(const Schema *schema, const SchemaState *state, const Node *node, const SchemaFrame *f) {
    for (int i = f->at; i < last_key(node, f); i++)
        if (has_room(schema, state->depth, node->children[i])) return true;
    return false;
}

static bool nothing_required(const Node *node, int from) { return node->rest[from] == 1; }

static bool step_object(SchemaState *state, const Schema *schema, const Node *node, SchemaFrame *f, uint8_t byte) {
    switch (f->phase) {
    case BEGIN: return go(f, byte == '{', O_OPEN);
    case O_OPEN: case O_NEXT:
        if (byte == ' ' && f->space) return f->space = 0, true;
        if (byte == '}' && f->phase == O_OPEN && nothing_required(node, 0)) return state->depth--, true;
        if (byte != '"' || !has_key(schema, state, node, f)) return false;
        f->space = 0;
        f->item = f->at;
        f->length = 1;
        return go(f, true, O_KEY);
    case O_KEY: {
        int next = next_text(node, f, f->at, last_key(node, f), byte);
        while (next >= 0 && !has_room(schema, state->depth, node->children[next]))
            next = next_text(node, f, next + 1, last_key(node, f), byte);
        if (next < 0) return false;
        f->item = (uint16_t)next;
        f->length++;
        return f->length == node->texts[next].size ? go(f, true, O_COLON) : true;
    }
    case O_COLON: {
        int item = f->item;
        if (byte != ':') return false;
        *f = (SchemaFrame){ .node = f->node, .phase = O_VALUE, .at = (uint16_t)(item + 1) };
        return push(state, node->children[item], BEGIN, true);
    }
    case O_VALUE:
        if (byte == '}' && nothing_required(node, f->at)) return state->depth--, true;
        f->space = 1;
        return go(f, byte == ',' && has_key(schema, state, node, f), O_NEXT);
    default: return false;
    }
}

static bool step_map(SchemaState *state, const Schema *schema, const Node *node, SchemaFrame *f, uint8_t byte) {
    switch (f->phase) {
    case BEGIN: return go(f, byte == '{', M_OPEN);
    case M_OPEN: case M_NEXT:
        if (byte == ' ' && f->space) return f->space = 0, true;
        if (byte == '}' && f->phase == M_OPEN) return state->depth--, true;
        f->space = 0;
        return go(f, byte == '"' && has_room(schema, state->depth, node->children[0]), M_COLON) &&
               push(state, schema->string, S_IN, false);
    case M_COLON: return go(f, byte == ':', M_VALUE) && push(state, node->children[0], BEGIN, true);
    case M_VALUE:
        if (byte == '}') return state->depth--, true;
        f->space = 1;
        return go(f, byte == ',', M_NEXT);                      /* there was room for a value */
    default: return false;
    }
}

/* A step, but an array's first item begins with the byte that comes behind its bracket: *again. */
static bool step_array(SchemaState *state, const Schema *schema, const Node *node, SchemaFrame *f, uint8_t byte,
                       bool *again) {
    switch (f->phase) {
    case BEGIN: return go(f, byte == '[', A_OPEN);
    case A_OPEN:
        if (byte == ']') return node->least == 0 && (state->depth--, true);
        f->phase = A_ITEM;
        f->at = 1;
        *again = true;
        return node->most != 0 && has_room(schema, state->depth, node->children[0]) &&
               push(state, node->children[0], BEGIN, false);
    case A_ITEM:
        if (byte == ']') return f->at >= node->least && (state->depth--, true);
        if (byte != ',' || (node->most >= 0 && f->at >= node->most)) return false;
        if (node->most >= 0 || f->at < node->least) f->at++;
        return push(state, node->children[0], BEGIN, true);
    default: return false;
    }
}

/* Whether the innermost value is complete though it might go on: a number, or a literal that begins another. */
static bool may_end(const Node *node, const SchemaFrame *f) {
    bool more;
    return node->kind == LITERALS ? literal_complete(node, f, &more) : number_complete(f);
}

bool schema_step(const Schema *schema, SchemaState *state, uint8_t byte) {
    while (state->depth > 0) {
        SchemaFrame *f = &state->frame[state->depth - 1];
        const Node *node = &schema->node[f->node];
        bool again = false, taken = false;
        if (f->phase == BEGIN) {
            if (byte == ' ' && f->space) return f->space = 0, true;
            f->space = 0;
            while (node->kind == UNION) {
                int c = 0;
                while (c < node->n && !has_byte(schema->node[node->children[c]].first, byte)) c++;
                if (c == node->n || !has_room(schema, state->depth - 1, node->children[c])) return false;
                f->node = node->children[c];
                node = &schema->node[f->node];
            }
        }
        switch (node->kind) {
        case STRING: taken = f->phase == BEGIN ? go(f, byte == '"', S_IN) : step_string(state, f, byte); break;
        case NUMBER: case INTEGER: taken = step_number(f, node->kind == INTEGER, byte); break;
        case LITERALS: taken = step_literal(state, node, f, byte); break;
        case ARRAY: taken = step_array(state, schema, node, f, byte, &again); break;
        case OBJECT: taken = step_object(state, schema, node, f, byte); break;
        case MAP: taken = step_map(state, schema, node, f, byte); break;
        }
        if (taken && !again) return true;
        if (!taken) {
            if (!may_end(node, f)) return false;
            state->depth--;                                 /* it ended with the byte before */
        }
    }
    return false;
}

bool schema_complete(const Schema *schema, const SchemaState *state) {
    const SchemaFrame *f = state->frame;
    return state->depth == 0 || (state->depth == 1 && may_end(&schema->node[f->node], f));
}

/* The bytes that one frame still needs, without those of the frames within it. */
static uint32_t frame_least(const Schema *schema, const SchemaFrame *f, int depth) {
    static const uint8_t of_string[] = { [S_IN] = 1, [S_ESCAPE] = 2, [S_HEX4] = 5, [S_HEX3] = 4, [S_HEX3_LOW] = 4,
                                         [S_HEX2] = 3, [S_HEX1] = 2, [S_1] = 2, [S_2] = 3, [S_3] = 4, [S_E0] = 3,
                                         [S_ED] = 3, [S_F0] = 4, [S_F4] = 4 };
    const Node *node = &schema->node[f->node];
    uint32_t child = node->kind == ARRAY || node->kind == MAP ? schema->node[node->children[0]].cost : 0, least = NEVER;
    switch (f->phase) {
    case BEGIN: return node->cost;
    case N_MINUS: case N_POINT: case N_E: case N_SIGN: return 1;
    case N_ZERO: case N_WHOLE: case N_FRACTION: case N_EXPONENT: return 0;
    case L_IN:
        for (int i = 0; i < node->n; i++)
            if (begins_alike(&node->texts[i], &node->texts[f->item], f->length) &&
                node->texts[i].size - f->length < least) least = (uint32_t)(node->texts[i].size - f->length);
        return least;
    case A_OPEN: return node->cost - 1;
    case A_ITEM: return f->at >= node->least ? 1 : (uint32_t)(node->least - f->at) * (1 + child) + 1;
    case O_OPEN: return node->cost - 1;
    case O_NEXT: case O_KEY:
        for (int i = f->at; i < last_key(node, f); i++) {
            uint32_t length = f->phase == O_KEY ? f->length : 0, left = (uint32_t)node->texts[i].size - length;
            if (length && !begins_alike(&node->texts[i], &node->texts[f->item], length)) continue;
            if (!has_room(schema, depth, node->children[i])) continue;
            uint32_t all = left + 1 + schema->node[node->children[i]].cost + node->rest[i + 1];
            if (all < least) least = all;
        }
        return least;
    case O_COLON: return 1 + schema->node[node->children[f->item]].cost + node->rest[f->item + 1];
    case O_VALUE: return node->rest[f->at];
    case M_OPEN: case M_VALUE: return 1;
    case M_NEXT: return 2 + 1 + child + 1;
    case M_COLON: return 1 + child + 1;
    default: return of_string[f->phase];
    }
}

uint32_t schema_least(const Schema *schema, const SchemaState *state) {
    uint32_t least = 0;
    for (int i = 0; i < state->depth; i++) least = sum(least, frame_least(schema, &state->frame[i], i + 1));
    return least;
}

/* ------------------------------------------------------------------------------------------------------ the tokens */

/* Tokens by their bytes. shared: of how many the one before has the same. */
typedef struct TokenList { int32_t *id; uint8_t *shared; size_t n; } TokenList;

/* plain: what changes nothing inside a string, whole characters without " and \; hard: the others. Added tokens are in
   none of these. */
struct SchemaVocabulary {
    const SvModel *model;
    TokenList all, hard;
    uint64_t *plain;                                        /* a bit for each id */
    size_t words;
    bool single[256];                                       /* the bytes that are a token each */
};

enum { LONGEST_TOKEN = 255 };

typedef struct Word { const uint8_t *bytes; size_t size; int32_t id; } Word;

static int by_bytes(const void *a, const void *b) {
    const Word *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, smaller(x->size, y->size));
    return order ? order : x->size < y->size ? -1 : x->size > y->size;
}

static bool list_tokens(TokenList *list, const Word *words, size_t n) {
    list->id = malloc((n + 1) * sizeof *list->id);
    list->shared = malloc(n + 1);
    if (!list->id || !list->shared) return false;
    for (size_t i = 0; i < n; i++) {
        size_t shared = 0;
        while (i > 0 && shared < smaller(words[i].size, words[i - 1].size) &&
               words[i].bytes[shared] == words[i - 1].bytes[shared]) shared++;
        list->id[i] = words[i].id;
        list->shared[i] = (uint8_t)shared;
    }
    list->n = n;
    return true;
}

/* Whether the bytes are whole characters of a string, none of them special. */
static bool is_plain(const Word *word) {
    SchemaState state = { .depth = 1, .frame = { { .phase = S_IN } } };
    for (size_t i = 0; i < word->size; i++)
        if (word->bytes[i] == '"' || word->bytes[i] == '\\' || !step_string(&state, state.frame, word->bytes[i]))
            return false;
    return state.frame->phase == S_IN;
}

int schema_vocabulary_new(const SvModel *m, SchemaVocabulary **vocabulary, SvError *error) {
    uint32_t vocab = m->config.vocab_size;
    SchemaVocabulary *v = *vocabulary = calloc(1, sizeof *v);
    Word *words = malloc((vocab + 1) * sizeof *words);
    size_t n = 0, hard = 0;
    if (!v || !words) goto failed;
    v->model = m;
    v->words = (vocab + 63) / 64;
    v->plain = calloc(v->words + 1, sizeof *v->plain);
    if (!v->plain) goto failed;
    for (int32_t id = 0; id < (int32_t)vocab; id++) {
        Word word = { .id = id };
        word.bytes = (const uint8_t *)sv_token_bytes(m->tokenizer, id, &word.size);
        if (word.size == 0 || word.size > LONGEST_TOKEN || sv_is_end(&m->config, id)) continue;
        if (sv_is_added(m->tokenizer, id)) continue;
        if (word.size == 1) v->single[*word.bytes] = true;
        words[n++] = word;
    }
    qsort(words, n, sizeof *words, by_bytes);
    if (!list_tokens(&v->all, words, n)) goto failed;
    for (size_t i = 0; i < n; i++) {
        if (is_plain(&words[i])) v->plain[words[i].id / 64] |= UINT64_C(1) << (words[i].id % 64);
        else words[hard++] = words[i];
    }
    if (!list_tokens(&v->hard, words, hard)) goto failed;
    free(words);
    return 0;

failed:
    free(words);
    schema_vocabulary_free(v);
    *vocabulary = NULL;
    return sv_fail(error, "%s: out of memory for the vocabulary", m->path);
}

void schema_vocabulary_free(SchemaVocabulary *v) {
    if (!v) return;
    free(v->all.id);
    free(v->all.shared);
    free(v->hard.id);
    free(v->hard.shared);
    free(v->plain);
    free(v);
}

/* ------------------------------------------------------------------------------------------------------- the guide */

/* The tokens that may follow in a state: a bit for each id; most: the most bytes that are needed to the end behind one
   of them. */
typedef struct Mask { uint64_t hash, *bits; uint32_t most; SchemaState state; } Mask;

enum { MASKS = 128 };

struct Guide {
    const Schema *schema;
    const SchemaVocabulary *vocabulary;
    SchemaState state, *path;                               /* path [LONGEST_TOKEN + 1]: the states along a token */
    uint32_t left;                                          /* how many tokens may still come */
    uint64_t *bits;                                         /* for a mask that is not kept */
    Mask masks[MASKS];                                      /* by hash, each at its place or the next free one */
    int n_masks;
};

/* Whether the shortest way to an end can be written byte by byte: what may stand there, what completes a character. */
static int check_bytes(const Schema *schema, const SchemaVocabulary *v, SvError *error) {
    bool needed[256] = { false };
    for (const char *c = " \"\\,:[]{}0123456789abcdefnrtu"; *c; c++) needed[(uint8_t)*c] = true;
    for (int byte = 0x80; byte < 0xc0; byte++) needed[byte] = true;
    for (int i = 0; i < schema->n_nodes; i++)
        for (int t = 0; t < schema->node[i].n; t++)
            for (size_t k = 0; k < schema->node[i].texts[t].size; k++)
                needed[(uint8_t)schema->node[i].texts[t].data[k]] = true;
    for (int byte = 0; byte < 256; byte++)
        if (needed[byte] && !v->single[byte])
            return sv_fail(error, "%s: the vocabulary has no token of the single byte %02x, which the schema needs",
                           v->model->path, (unsigned)byte);
    return 0;
}

int guide_new(const Schema *schema, const SchemaVocabulary *vocabulary, Guide **guide, SvError *error) {
    *guide = NULL;
    if (check_bytes(schema, vocabulary, error) != 0) return -1;
    Guide *g = *guide = calloc(1, sizeof *g);
    if (g) {
        g->schema = schema;
        g->vocabulary = vocabulary;
        g->path = malloc((LONGEST_TOKEN + 1) * sizeof *g->path);
        g->bits = malloc(vocabulary->words * sizeof *g->bits);
        if (g->path && g->bits) return 0;
    }
    guide_free(g);
    *guide = NULL;
    return sv_fail(error, "%s: out of memory for a schema", vocabulary->model->path);
}

static void forget_masks(Guide *g) {
    for (int i = 0; i < MASKS; i++) {
        free(g->masks[i].bits);
        g->masks[i].bits = NULL;
    }
    g->n_masks = 0;
}

void guide_free(Guide *g) {
    if (!g) return;
    forget_masks(g);
    free(g->path);
    free(g->bits);
    free(g);
}

int guide_begin(Guide *g, int most, SvError *error) {
    g->state = schema_begin(g->schema);
    g->left = most > 0 ? (uint32_t)most : 0;
    uint32_t least = schema_least(g->schema, &g->state);
    if (least <= g->left) return 0;
    return sv_fail(error, "an answer of this shape may take %u tokens, but there is room for %u", (unsigned)least,
                   (unsigned)g->left);
}

static size_t state_size(const SchemaState *state) {
    return offsetof(SchemaState, frame) + (size_t)state->depth * sizeof *state->frame;
}

/* Adds the tokens of the list that may follow, if no more than `limit` bytes are needed behind them. Returns the most
   bytes that are needed behind one of them. */
static uint32_t walk(Guide *g, const TokenList *list, uint32_t limit, uint64_t *bits) {
    size_t passed = 0;                                      /* how many bytes of the last token that was tried */
    uint32_t most = 0;
    memcpy(&g->path[0], &g->state, state_size(&g->state));
    for (size_t i = 0; i < list->n; i++) {
        size_t at = list->shared[i], size;
        if (at > passed) continue;                          /* it fails where that one did */
        const char *bytes = sv_token_bytes(g->vocabulary->model->tokenizer, list->id[i], &size);
        for (; at < size; at++) {
            memcpy(&g->path[at + 1], &g->path[at], state_size(&g->path[at]));
            if (!schema_step(g->schema, &g->path[at + 1], (uint8_t)bytes[at])) break;
        }
        passed = at;
        if (at < size) continue;
        uint32_t least = schema_least(g->schema, &g->path[size]);
        if (least > limit) continue;
        if (least > most) most = least;
        bits[list->id[i] / 64] |= UINT64_C(1) << (list->id[i] % 64);
    }
    return most;
}

/* The tokens that may follow, if no more than `limit` bytes are needed behind them. */
static uint32_t find_tokens(Guide *g, uint32_t limit, uint64_t *bits) {
    const SchemaVocabulary *v = g->vocabulary;
    uint32_t least = schema_least(g->schema, &g->state);
    memset(bits, 0, v->words * sizeof *bits);
    if (g->state.depth == 0) return 0;
    const SchemaFrame *top = &g->state.frame[g->state.depth - 1];
    bool in_string = g->schema->node[top->node].kind == STRING && top->phase == S_IN;
    if (!in_string) return walk(g, &v->all, limit, bits);
    if (least <= limit) memcpy(bits, v->plain, v->words * sizeof *bits);
    uint32_t most = walk(g, &v->hard, limit, bits);
    return most > least ? most : least;
}

/* The same, kept, without a limit. */
static const Mask *find_mask(Guide *g) {
    uint64_t hash = 0xcbf29ce484222325u;
    size_t size = state_size(&g->state);
    for (size_t i = 0; i < size; i++) hash = (hash ^ ((const uint8_t *)&g->state)[i]) * 0x100000001b3u;
    size_t at = (size_t)(hash ^ hash >> 32) % MASKS;
    for (; g->masks[at].bits; at = (at + 1) % MASKS) {
        const Mask *mask = &g->masks[at];
        if (mask->hash == hash && mask->state.depth == g->state.depth && memcmp(&mask->state, &g->state, size) == 0)
            return mask;
    }
    if (g->n_masks == MASKS / 2) {
        forget_masks(g);
        at = (size_t)(hash ^ hash >> 32) % MASKS;
    }
    Mask *mask = &g->masks[at];
    mask->bits = malloc(g->vocabulary->words * sizeof *mask->bits);
    if (!mask->bits) return NULL;
    g->n_masks++;
    mask->hash = hash;
    memcpy(&mask->state, &g->state, size);
    mask->most = find_tokens(g, NEVER, mask->bits);
    return mask;
}

void guide_mask(Guide *g, float *logits) {
    const SvModel *m = g->vocabulary->model;
    const SvIds *ends = &m->config.eos_token_id;
    float end[16];
    const Mask *mask = find_mask(g);
    const uint64_t *bits = mask ? mask->bits : NULL;
    if (!mask || mask->most >= g->left) {                   /* few tokens are left: not all of these come to an end */
        find_tokens(g, g->left > 0 ? g->left - 1 : 0, g->bits);
        bits = g->bits;
    }
    bool may_end = guide_complete(g);
    for (uint32_t i = 0; i < ends->count; i++) end[i] = logits[ends->id[i]];
    for (uint32_t i = 0; i < m->config.vocab_size; i++)
        if (!(bits[i / 64] >> (i % 64) & 1)) logits[i] = -INFINITY;
    for (uint32_t i = 0; i < ends->count && may_end; i++) logits[ends->id[i]] = end[i];
}

bool guide_token(Guide *g, int32_t id) {
    size_t size;
    const char *bytes = sv_token_bytes(g->vocabulary->model->tokenizer, id, &size);
    for (size_t i = 0; i < size; i++) schema_step(g->schema, &g->state, (uint8_t)bytes[i]);
    if (g->left > 0) g->left--;
    return g->vocabulary->model->config.eos_token_id.count == 0 && guide_complete(g);
}

bool guide_complete(const Guide *g) { return schema_complete(g->schema, &g->state); }
