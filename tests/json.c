/* json.c: what cli/json.c makes of each line of stdin, for tests/fuzz_json.py: a line is a text's bytes in hexadecimal.
   Prints the value as it is written again, or "bad" and the sentence. */
#include "../cli/json.h"

#include <stdlib.h>
#include <string.h>

static int digit(int c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

int main(void) {
    static char line[1 << 20];
    while (fgets(line, sizeof line, stdin)) {
        size_t size = strcspn(line, "\n") / 2;
        char *text = malloc(size + !size);                  /* of this size, so that sanitizers see a byte too many */
        JsonDocument document;
        SvError error;
        if (!text) return 1;
        for (size_t i = 0; i < size; i++) text[i] = (char)(16 * digit(line[2 * i]) + digit(line[2 * i + 1]));
        if (json_parse(text, size, "text", &document, &error) == 0) json_put(stdout, document.root);
        else printf("bad %s", error.text);
        putchar('\n');
        json_free(&document);
        free(text);
    }
    return 0;
}
