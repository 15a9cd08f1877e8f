/* system.c: what differs between operating systems: the clock, and file names and arguments in UTF-8. On POSIX and in
   plain C there is little to do. Windows takes wide characters. (Files are mapped into memory in model.c.) */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE                                     /* madvise */
#endif
#include "model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <direct.h>
#include <fcntl.h>
#include <io.h>
#include <windows.h>
#include <shellapi.h>
#elif defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

/* What sv_zeros has from the system; it stands before the memory that it gave. */
typedef struct Origin { void *start; size_t mapped; } Origin;
enum { LINE = 64, HUGE_PAGE = 2 << 20 };

void *sv_zeros(size_t size) {
    Origin origin = { NULL, 0 };
    size_t at = 0;
    if (size > SIZE_MAX / 2) return NULL;
#ifdef MADV_HUGEPAGE
    if (size >= HUGE_PAGE) {                                /* mapped memory is zero */
        origin.mapped = size + 2 * HUGE_PAGE;
        void *map = mmap(NULL, origin.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (map == MAP_FAILED) return NULL;
        origin.start = map;
        at = HUGE_PAGE - (uintptr_t)map % HUGE_PAGE;        /* at least a page, so there is room for a line */
        madvise((char *)map + at, size, MADV_HUGEPAGE);     /* only an advice: it may fail */
    }
#endif
    if (!origin.start) {
        origin.start = calloc(size + 2 * LINE, 1);
        if (!origin.start) return NULL;
        at = 2 * LINE - (uintptr_t)origin.start % LINE;
    }
    char *block = (char *)origin.start + at;
    memcpy(block - sizeof origin, &origin, sizeof origin);
    return block;
}

void sv_zeros_free(void *block) {
    Origin origin;
    if (!block) return;
    memcpy(&origin, (char *)block - sizeof origin, sizeof origin);
#ifdef MADV_HUGEPAGE
    if (origin.mapped) munmap(origin.start, origin.mapped);
#endif
    if (!origin.mapped) free(origin.start);
}

/* Adds a name to a list; NULL counts as out of memory. */
static bool add_name(char ***names, int64_t *count, int64_t *room, char *name) {
    if (name && *count == *room) {
        int64_t more = 2 * *room + 64;
        char **grown = realloc(*names, (size_t)more * sizeof *grown);
        if (!grown) return free(name), false;
        *names = grown;
        *room = more;
    }
    if (name) (*names)[(*count)++] = name;
    return name != NULL;
}

static int64_t drop_names(char ***names, int64_t count) {
    int reason = errno;
    while (count > 0) free((*names)[--count]);
    free(*names);
    *names = NULL;
    errno = reason;
    return -1;
}

#if defined(_WIN32)

double sv_seconds(void) {
    LARGE_INTEGER now, frequency;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&frequency);
    return (double)now.QuadPart / (double)frequency.QuadPart;
}

/* A text in UTF-8 (or, if it is not valid UTF-8, in the system's code page) as wide characters, which Windows'
   functions for files take. NULL, with errno set, if there is no memory. The caller frees it. */
static wchar_t *wide(const char *text) {
    UINT from = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, text, -1, NULL, 0) > 0 ? CP_UTF8 : CP_ACP;
    int size = MultiByteToWideChar(from, 0, text, -1, NULL, 0);
    wchar_t *out = malloc(((size_t)size + 1) * sizeof *out);
    if (!out) errno = ENOMEM;
    if (out && MultiByteToWideChar(from, 0, text, -1, out, size) <= 0) *out = 0;
    return out;
}

FILE *sv_fopen(const char *path, const char *mode) {
    wchar_t *name = wide(path), *how = wide(mode);
    FILE *file = name && how ? _wfopen(name, how) : NULL;
    DWORD kind = name && !file && errno == EACCES ? GetFileAttributesW(name) : INVALID_FILE_ATTRIBUTES;
    if (kind != INVALID_FILE_ATTRIBUTES && (kind & FILE_ATTRIBUTE_DIRECTORY)) errno = EISDIR;
    free(name);
    free(how);
    return file;
}

int sv_remove(const char *path) {
    wchar_t *name = wide(path);
    int result = name ? _wremove(name) : -1;
    free(name);
    return result;
}

int sv_rename(const char *from, const char *to) {
    wchar_t *name = wide(from), *other = wide(to);
    bool done = name && other && MoveFileExW(name, other, MOVEFILE_REPLACE_EXISTING);
    if (!done) errno = EACCES;                              /* Windows' error codes are not errno's */
    free(name);
    free(other);
    return done ? 0 : -1;
}

int64_t sv_folder(const char *path, char ***names) {
    size_t length = strlen(path);
    char *pattern = malloc(length + 3);
    int64_t count = 0, room = 0;
    *names = NULL;
    if (!pattern) return errno = ENOMEM, -1;
    memcpy(pattern, path, length);
    memcpy(pattern + length, "/*", 3);
    wchar_t *name = wide(path), *all = wide(pattern);
    DWORD kind = name ? GetFileAttributesW(name) : INVALID_FILE_ATTRIBUTES;
    WIN32_FIND_DATAW found;
    HANDLE search = INVALID_HANDLE_VALUE;
    bool folder = kind != INVALID_FILE_ATTRIBUTES && (kind & FILE_ATTRIBUTE_DIRECTORY) && all;
    if (folder) search = FindFirstFileW(all, &found);
    errno = !folder ? ENOTDIR : search == INVALID_HANDLE_VALUE ? EACCES : 0;
    while (search != INVALID_HANDLE_VALUE && errno == 0) {
        int size = WideCharToMultiByte(CP_UTF8, 0, found.cFileName, -1, NULL, 0, NULL, NULL);
        char *entry = malloc((size_t)size + 1);
        if (entry) WideCharToMultiByte(CP_UTF8, 0, found.cFileName, -1, entry, size, NULL, NULL);
        if (!add_name(names, &count, &room, entry)) errno = ENOMEM;
        else if (!FindNextFileW(search, &found)) break;
    }
    if (search != INVALID_HANDLE_VALUE) FindClose(search);
    free(pattern);
    free(name);
    free(all);
    return errno == 0 ? count : drop_names(names, count);
}

int sv_mkdir(const char *path) {
    wchar_t *name = wide(path);
    int result = name ? _wmkdir(name) : -1;
    free(name);
    return result;
}

int sv_truncate(FILE *file, uint64_t size) {
    errno = fflush(file) != 0 ? errno : _chsize_s(_fileno(file), (int64_t)size);
    return errno == 0 ? 0 : -1;
}

char **sv_arguments(int *argc, char **argv) {
    int count;
    wchar_t **words = CommandLineToArgvW(GetCommandLineW(), &count);
    char **out = words ? calloc((size_t)count + 1, sizeof *out) : NULL;
    for (int i = 0; out && i < count; i++) {
        int size = WideCharToMultiByte(CP_UTF8, 0, words[i], -1, NULL, 0, NULL, NULL);
        out[i] = malloc((size_t)size + 1);
        if (!out[i]) return argv;
        WideCharToMultiByte(CP_UTF8, 0, words[i], -1, out[i], size, NULL, NULL);
    }
    LocalFree(words);
    if (!out) return argv;
    *argc = count;
    return out;
}

unsigned sv_console(unsigned code_page) {
    unsigned before = GetConsoleOutputCP();
    SetConsoleOutputCP(code_page ? code_page : CP_UTF8);
    _setmode(0, _O_BINARY);
    _setmode(1, _O_BINARY);
    return before;
}

#else

double sv_seconds(void) {
#if defined(CLOCK_MONOTONIC)
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#elif defined(TIME_UTC)
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
    return (double)clock() / CLOCKS_PER_SEC;                /* CPU time: newlib before 2021 has no other clock */
#endif
}

FILE *sv_fopen(const char *path, const char *mode) { return fopen(path, mode); }
int sv_remove(const char *path) { return remove(path); }
int sv_rename(const char *from, const char *to) { return rename(from, to); }

int64_t sv_folder(const char *path, char ***names) {
    *names = NULL;
#if defined(__unix__) || defined(__APPLE__)
    int64_t count = 0, room = 0;
    DIR *folder = opendir(path);
    if (!folder) return -1;
    for (const struct dirent *entry; errno = 0, (entry = readdir(folder)) != NULL;)
        if (!add_name(names, &count, &room, strdup(entry->d_name))) {
            errno = ENOMEM;
            break;
        }
    int reason = errno;
    closedir(folder);
    errno = reason;
    return reason == 0 ? count : drop_names(names, count);
#else
    (void)path, (void)add_name, (void)drop_names;
    errno = ENOTDIR;
    return -1;
#endif
}

int sv_mkdir(const char *path) {
#if defined(__unix__) || defined(__APPLE__)
    return mkdir(path, 0777);
#else
    (void)path;
    errno = ENOSYS;
    return -1;
#endif
}

int sv_truncate(FILE *file, uint64_t size) {
#if defined(__unix__) || defined(__APPLE__)
    return fflush(file) != 0 ? -1 : ftruncate(fileno(file), (off_t)size);
#else
    (void)file, (void)size;
    errno = ENOSYS;
    return -1;
#endif
}

char **sv_arguments(int *argc, char **argv) { return (void)argc, argv; }
unsigned sv_console(unsigned code_page) { return code_page; }

#endif
