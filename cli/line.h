/* line.h: reads a line of text from a terminal (line.c), and tells how many columns characters take there (width.c). It
   does not depend on the model. */
#ifndef SV_LINE_H
#define SV_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---------------------------------------------------------------------------------------------------------- width.c */

/* Decodes the first character of a UTF-8 text; size is at least 1. Returns how many bytes it takes. A byte that is not
   part of a valid character counts as U+FFFD. */
size_t character(const char *text, size_t size, uint32_t *code);

/* Columns on a terminal: 2 for East Asian characters and most emoji, 0 for combining characters, otherwise 1. */
int character_width(uint32_t code);

/* Where the character after `at` ends, or where the one before it begins. A character includes all that is combined
   with it: accents, skin tones, and what a zero width joiner holds together. */
size_t next_character(const char *text, size_t size, size_t at);
size_t previous_character(const char *text, size_t size, size_t at);

/* ----------------------------------------------------------------------------------------------------------- line.c */

typedef struct LineEditor LineEditor;
typedef enum { LINE_TEXT, LINE_END, LINE_BREAK, LINE_FAILED } LineResult;   /* Enter, Ctrl-D, Ctrl-C, out of memory */

/* Whether stdin is a terminal; whether both stdin and stdout are. */
bool line_typed(void);
bool line_terminal(void);

/* The path of a program's history: NAME_history in $XDG_STATE_HOME, otherwise .NAME_history in the home directory. The
   caller frees it. NULL if there is no such directory. */
char *line_history_path(const char *name);

/* Until line_close, the terminal echoes nothing except while a line is read, and Ctrl-C does not end the program. Keys
   typed in between wait for the next line. history: a file, or NULL for none; a file that cannot be read counts as
   empty. Returns NULL if out of memory. Only one editor may be open, as there is only one terminal. */
LineEditor *line_open(const char *history);

/* Returns what Tab inserts after the first `size` bytes of the text, where the cursor is. If it returns NULL, *list may
   be a list of possible completions to show. The editor frees both. Without such a function Tab is a character. */
typedef char *LineCompletion(void *user, const char *text, size_t size, char **list);
void line_complete(LineEditor *editor, LineCompletion *complete, void *user);

/* Reads a line. By Alt-Enter or a paste it may have several lines in it. The caller frees *text. */
LineResult line_read(LineEditor *editor, const char *prompt, char **text);

/* Adds a text to the history and its file. Returns false if the file cannot be written. */
bool line_remember(LineEditor *editor, const char *text);

/* Whether Ctrl-C was pressed since the last line was read. */
bool line_interrupted(void);

/* The current width of the terminal, in columns. */
int line_columns(void);

void line_close(LineEditor *editor);                        /* NULL is allowed */

#endif
