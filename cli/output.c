/* output.c: reads and writes files; writes activations as .npy. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------------ files */

bool output_open(Output *o, const char *directory, const char *name) {
    int length = snprintf(o->path, sizeof o->path, "%s%s%s", directory ? directory : "", directory ? "/" : "", name);
    if (length < 0 || (size_t)length >= sizeof o->path)
        return complain("%s: the name is too long", directory ? directory : name), false;
    snprintf(o->temporary, sizeof o->temporary, "%s.part", o->path);
    o->file = sv_fopen(o->temporary, "wb+");
    if (!o->file) complain("%s: %s", o->temporary, strerror(errno));
    return o->file != NULL;
}

bool output_close(Output *o) {
    bool ok = !ferror(o->file);
    if (fclose(o->file) != 0) ok = false;
    o->file = NULL;
    if (ok && sv_rename(o->temporary, o->path) == 0) return true;
    complain("%s: could not be written: %s", o->path, strerror(errno));
    sv_remove(o->temporary);
    return false;
}

bool directory_ready(const char *path) {
    char name[1040];
    bool there = sv_mkdir(path) == 0 || errno == EEXIST;
    FILE *file = NULL;
    if (snprintf(name, sizeof name, "%s/smolvlm.part", path) >= (int)sizeof name) there = false, errno = ENAMETOOLONG;
    if (there) file = sv_fopen(name, "wb");
    if (!file) return complain("%s: %s", path, strerror(errno)), false;
    fclose(file);
    sv_remove(name);
    return true;
}

bool write_ppm(const char *directory, const char *name, const uint8_t *rgb, int width, int height) {
    Output o;
    if (!output_open(&o, directory, name)) return false;
    fprintf(o.file, "P6\n%d %d\n255\n", width, height);
    fwrite(rgb, 3, (size_t)width * (size_t)height, o.file);
    return output_close(&o);
}

bool write_tiles(const char *directory, const SvPrompt *prompt) {
    for (int k = 0; k < prompt->n_pictures; k++) {
        const SvTiles *t = &prompt->pictures[k];
        size_t tile = 3 * (size_t)t->side * (size_t)t->side;
        for (int i = 0; i < t->count; i++) {
            char name[80];
            if (t->rows == 0 && t->count > 1) snprintf(name, sizeof name, "image%d_frame%d.ppm", k, i + 1);
            else if (i == t->count - 1) snprintf(name, sizeof name, "image%d_global.ppm", k);
            else snprintf(name, sizeof name, "image%d_row%d_col%d.ppm", k, i / t->cols + 1, i % t->cols + 1);
            if (!write_ppm(directory, name, t->rgb + (size_t)i * tile, t->side, t->side)) return false;
        }
    }
    return true;
}

static void write_npy_header(FILE *f, const char *kind, const int *shape, int dims) {
    char text[119];
    const uint16_t one = 1;
    int n = snprintf(text, sizeof text, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                     *(const uint8_t *)&one ? '<' : '>', kind);
    for (int i = 0; i < dims; i++) n += snprintf(text + n, sizeof text - (size_t)n, "%d, ", shape[i]);
    n += snprintf(text + n, sizeof text - (size_t)n, "), }");
    memset(text + n, ' ', sizeof text - (size_t)n);
    text[117] = '\n';                                       /* with the 10 bytes before it, 128 in all */
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f);
    fwrite(text, 1, 118, f);
}

void dump_activation(Dumps *dumps, const SvActivation *a) {
    if (dumps->failed) return;
    Dump *d = NULL;
    for (int i = 0; i < dumps->count && !d; i++)
        if (strcmp(dumps->list[i].module, a->module) == 0) d = &dumps->list[i];
    if (!d) {
        Dump *grown = realloc(dumps->list, ((size_t)dumps->count + 1) * sizeof *grown);
        if (grown) dumps->list = grown;
        d = grown ? &grown[dumps->count] : NULL;
        char name[112];
        snprintf(name, sizeof name, "%s.npy", a->module);
        if (!d) complain("%s: out of memory", dumps->directory);
        dumps->failed = !d || !output_open(&d->output, dumps->directory, name);
        if (dumps->failed) return;
        dumps->count++;
        snprintf(d->module, sizeof d->module, "%s", a->module);
        d->dims = a->dims;
        d->axis = a->axis;
        memcpy(d->shape, a->shape, sizeof d->shape);
        d->shape[d->axis] = 0;
        write_npy_header(d->output.file, "f4", d->shape, d->dims);
    }
    size_t size = 1;
    for (int i = 0; i < a->dims; i++) size *= (size_t)a->shape[i];
    d->shape[d->axis] += a->shape[a->axis];
    if (fwrite(a->data, sizeof(float), size, d->output.file) == size) return;
    complain("%s: could not be written: %s", d->output.path, strerror(errno));
    dumps->failed = true;
}

bool dump_close(Dumps *dumps, bool keep) {
    for (int i = 0; i < dumps->count; i++) {
        Dump *d = &dumps->list[i];
        if (!keep || dumps->failed) {
            fclose(d->output.file);
            sv_remove(d->output.temporary);
            continue;
        }
        if (fseek(d->output.file, 0, SEEK_SET) == 0) write_npy_header(d->output.file, "f4", d->shape, d->dims);
        if (!output_close(&d->output)) dumps->failed = true;
    }
    free(dumps->list);
    return !dumps->failed;
}

bool dump_ids(const char *directory, const SvPrompt *prompt) {
    Output o;
    if (!output_open(&o, directory, "input_ids.npy")) return false;
    write_npy_header(o.file, "i4", (int[]){ 1, (int)prompt->n_ids }, 2);
    fwrite(prompt->ids, sizeof *prompt->ids, prompt->n_ids, o.file);
    return output_close(&o);
}

char *read_text(FILE *file, const char *name, size_t *size) {
    enum { LONGEST = 1 << 30 };
    char *data = NULL;
    size_t room = 0;
    *size = 0;
    do {
        if (room - *size < 2) {
            char *grown = realloc(data, room = 2 * room + 65536);
            if (!grown) {
                free(data);
                complain("%s: out of memory", name);
                return NULL;
            }
            data = grown;
        }
        *size += fread(data + *size, 1, room - *size - 1, file);
        if (ferror(file) || *size > LONGEST) {
            complain("%s: %s", name, ferror(file) ? strerror(errno) : "more than a gigabyte of text");
            free(data);
            return NULL;
        }
    } while (!feof(file));
    data[*size] = 0;
    return data;
}

char *read_file(const char *path, size_t *size) {
    FILE *file = sv_fopen(path, "rb");
    if (!file) return complain("%s: %s", path, strerror(errno)), NULL;
    char *data = read_text(file, path, size);
    fclose(file);
    return data;
}

const char STDIN[] = "standard input";

int read_json(const char *path, JsonDocument *document, SvError *error) {
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : sv_fopen(path, "rb");
    const char *name = standard ? STDIN : path;
    size_t size;
    if (!file) return sv_fail(error, "%s: %s", name, strerror(errno));
    char *text = read_text(file, name, &size);
    if (!standard) fclose(file);
    error->text[0] = 0;
    int result = text ? json_parse(text, size, name, document, error) : -1;
    free(text);
    return result;
}

bool find_text(const char **text, char **read) {
    size_t size;
    const char *path = **text == '@' ? *text + 1 : NULL, *name = path ? path : STDIN;
    if (!path && strcmp(*text, "-") != 0) return true;
    FILE *file = path ? sv_fopen(path, "rb") : stdin;
    if (!file) {
        complain("%s: %s (a text that begins with @ can come from stdin, as -p -)", *text, strerror(errno));
        return false;
    }
    *text = *read = read_text(file, name, &size);
    if (path) fclose(file);
    if (!*read) return false;
    if (strlen(*read) != size) return complain("%s: a zero byte in the text", name), false;
    if (size > 0 && (*read)[size - 1] == '\n') {
        (*read)[--size] = 0;
        if (size > 0 && (*read)[size - 1] == '\r') (*read)[--size] = 0;
    }
    if (blank(*read)) return complain("%s: the text is empty", name), false;
    return true;
}

#if defined(_WIN32)
#define SEPARATORS "/\\:"
#else
#define SEPARATORS "/"
#endif

int conversation_file(const char *path, const char *const *given, int n_given, const ClipOptions *clips,
                      JsonDocument *document, Conversation *c, SvError *error) {
    size_t length = strlen(path);
    SvError why;
    if (read_json(path, document, error) != 0) return -1;
    char *folder = malloc(length + 1);
    if (!folder) return sv_fail(error, "out of memory");
    memcpy(folder, path, length + 1);
    while (length > 0 && !strchr(SEPARATORS, folder[length - 1])) length--;
    folder[length] = 0;
    int result = conversation_read(document->root, folder, given, n_given, clips, c, &why);
    if (result != 0) sv_fail(error, "%s: %s", strcmp(path, "-") == 0 ? STDIN : path, why.text);
    free(folder);
    return result;
}

/* -------------------------------------------------------------------------------------------------- what is printed */

void put_ids(FILE *file, const int32_t *ids, size_t count, const char *separator) {
    for (size_t i = 0; i < count; i++) fprintf(file, "%s%" PRId32, i ? separator : "", ids[i]);
}
