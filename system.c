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
