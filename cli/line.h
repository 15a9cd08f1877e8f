/* line.h: a line of text typed on a terminal (line.c), and how many columns its characters take there (width.c).
   Nothing of the model is in it. */
#ifndef SV_LINE_H
#define SV_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---------------------------------------------------------------------------------------------------------- width.c */

/* The first character of UTF-8 text of `size` bytes, at least one; returns how many it takes. A byte that belongs to no
   character is U+FFFD by itself. */
size_t character(const char *text, size_t size, uint32_t *code);

/* Columns on a terminal: 2 for East Asian and most emoji, 0 for what joins the character before it, else 1. */
int character_width(uint32_t code);

/* Where the next character after `at` begins, or the one before it, together with all that joins it: accents, skin
   tones, what a zero width joiner holds together. */
size_t next_character(const char *text, size_t size, size_t at);
size_t previous_character(const char *text, size_t size, size_t at);

/* ----------------------------------------------------------------------------------------------------------- line.c */

typedef struct LineEditor LineEditor;
typedef enum { LINE_TEXT, LINE_END, LINE_BREAK, LINE_FAILED } LineResult;   /* Enter, Ctrl-D, Ctrl-C, no memory */

/* stdin is a terminal; and stdout too. */
bool line_typed(void);
bool line_terminal(void);

/* Where a program's history goes: NAME_history in $XDG_STATE_HOME, else .NAME_history in the home directory. To be
   freed; NULL if there is neither. */
char *line_history_path(const char *name);

/* From here to line_close the terminal shows nothing that is typed, except while a line is read, and Ctrl-C ends no
   program. What is typed early waits for the next line. history: a file, or NULL for none; one that cannot be read is
   none. Returns NULL without memory. There can be one at a time, as there is one terminal. */
LineEditor *line_open(const char *history);

/* What Tab adds to the first `size` bytes of the text, which are before the cursor; NULL: nothing, and then *list may
   be what to show of the ways to go on. Both are to be freed. Without such a function Tab is a character. */
typedef char *LineCompletion(void *user, const char *text, size_t size, char **list);
void line_complete(LineEditor *editor, LineCompletion *complete, void *user);

/* Reads a line, which may have several by Alt-Enter or paste; *text is to be freed. */
LineResult line_read(LineEditor *editor, const char *prompt, char **text);

/* Puts a text into the history, and into its file. Returns false if the file cannot be written. */
bool line_remember(LineEditor *editor, const char *text);

/* Whether Ctrl-C was pressed since the last line was read. */
bool line_interrupted(void);

/* The terminal's columns now. */
int line_columns(void);

void line_close(LineEditor *editor);                        /* NULL is allowed */

#endif
