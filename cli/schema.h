/* schema.h: answers that are JSON of a given shape, whatever is sampled: a JSON Schema becomes an automaton over bytes,
   and a token is barred where one of its bytes would leave it. */
#ifndef SV_SCHEMA_H
#define SV_SCHEMA_H

#include "json.h"
#include "../model.h"

/* Reads a schema; what of JSON Schema is not done here is refused by its name. The caller frees it. */
typedef struct Schema Schema;
int schema_new(const Json *json, Schema **schema, SvError *error);
void schema_free(Schema *schema);

/* Where a text is: what stands open, the innermost last. Zeroed but for what schema_begin sets. */
enum { SCHEMA_DEPTH = 64 };
typedef struct SchemaFrame { uint16_t node; uint8_t phase, space; uint16_t at, item, length; } SchemaFrame;
typedef struct SchemaState { int depth; SchemaFrame frame[SCHEMA_DEPTH]; } SchemaState;

SchemaState schema_begin(const Schema *schema);
bool schema_step(const Schema *schema, SchemaState *state, uint8_t byte);   /* false: the text cannot go on so */
bool schema_complete(const Schema *schema, const SchemaState *state);       /* whether the text may end here */
uint32_t schema_least(const Schema *schema, const SchemaState *state);      /* how many bytes are needed to its end */

/* A model's vocabulary, ready for any schema. */
typedef struct SchemaVocabulary SchemaVocabulary;
int schema_vocabulary_new(const SvModel *model, SchemaVocabulary **vocabulary, SvError *error);
void schema_vocabulary_free(SchemaVocabulary *vocabulary);

/* What keeps answers to a schema; it remembers which tokens may follow in each state, from one answer to the next. */
typedef struct Guide Guide;
int guide_new(const Schema *schema, const SchemaVocabulary *vocabulary, Guide **guide, SvError *error);
void guide_free(Guide *guide);

/* Begins an answer of at most `most` tokens; fails if that is too few for any text of the shape. */
int guide_begin(Guide *guide, int most, SvError *error);

/* Bars what must not follow: its logits become -INFINITY. An end token may only follow a complete text, and a token
   only where enough tokens are left to come to an end. */
void guide_mask(Guide *guide, float *logits);

/* Goes on by a token. Returns true if the answer is complete and the model has no end token to say so. */
bool guide_token(Guide *guide, int32_t id);
bool guide_complete(const Guide *guide);

#endif
