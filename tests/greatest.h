/* greatest.h: the macros of the greatest test harness (github.com/silentbicycle/greatest, v1.5) that these tests use,
   written anew and smaller. Upstream's header can take this one's place: make test GREATEST=path/to/greatest.h. So a
   test uses nothing else of this one, neither greatest_info nor what is called OWN here.

   A TEST returns by PASS(), FAIL(), SKIP() or a failing ASSERT; SUITEs run tests with RUN_TEST; main is

       GREATEST_MAIN_DEFS();
       int main(int argc, char **argv) { GREATEST_MAIN_BEGIN(); RUN_SUITE(suite); GREATEST_MAIN_END(); }

   Options: -v names every test, -t TEXT runs the tests whose name contains it, -s TEXT likewise for suites. */
#if defined(GREATEST)
#include GREATEST
#elif !defined(GREATEST_H)
#define GREATEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum greatest_test_res { GREATEST_TEST_RES_PASS = 0, GREATEST_TEST_RES_FAIL = -1, GREATEST_TEST_RES_SKIP = 1 };

struct greatest_run_info {
    unsigned passed, failed, skipped, assertions;
    int verbosity;
    const char *test_filter, *suite_filter, *msg, *fail_file;
    int fail_line;
};
extern struct greatest_run_info greatest_info;

#define GREATEST_IS_VERBOSE() (greatest_info.verbosity > 0)
#define GREATEST_MAIN_DEFS() struct greatest_run_info greatest_info

#define TEST        static enum greatest_test_res
#define SUITE(name) void name(void)
#define SUITE_EXTERN(name) void name(void)

#define GREATEST_OWN_RESULT(res, message)                                                                              \
    do {                                                                                                               \
        greatest_info.msg = (message);                                                                                 \
        greatest_info.fail_file = __FILE__;                                                                            \
        greatest_info.fail_line = __LINE__;                                                                            \
        return (res);                                                                                                  \
    } while (0)

#define PASSm(message) GREATEST_OWN_RESULT(GREATEST_TEST_RES_PASS, message)
#define FAILm(message) GREATEST_OWN_RESULT(GREATEST_TEST_RES_FAIL, message)
#define SKIPm(message) GREATEST_OWN_RESULT(GREATEST_TEST_RES_SKIP, message)
#define PASS() PASSm(NULL)
#define FAIL() FAILm(NULL)
#define SKIP() SKIPm(NULL)

#define ASSERTm(message, condition)                                                                                    \
    do {                                                                                                               \
        greatest_info.assertions++;                                                                                    \
        if (!(condition)) FAILm(message);                                                                              \
    } while (0)
#define ASSERT_FALSEm(message, condition) ASSERTm(message, !(condition))
#define ASSERT_EQm(message, expected, got) ASSERTm(message, (expected) == (got))
#define ASSERT_NEQm(message, expected, got) ASSERTm(message, (expected) != (got))
#define ASSERT_GTm(message, a, b) ASSERTm(message, (a) > (b))
#define ASSERT_GTEm(message, a, b) ASSERTm(message, (a) >= (b))
#define ASSERT_LTm(message, a, b) ASSERTm(message, (a) < (b))
#define ASSERT_LTEm(message, a, b) ASSERTm(message, (a) <= (b))

#define ASSERT_EQ_FMTm(message, expected, got, format)                                                                 \
    do {                                                                                                               \
        greatest_info.assertions++;                                                                                    \
        if ((expected) != (got)) {                                                                                     \
            printf("\nexpected " format ", got " format "\n", (expected), (got));                                      \
            FAILm(message);                                                                                            \
        }                                                                                                              \
    } while (0)

#define ASSERT_IN_RANGEm(message, expected, got, tolerance)                                                            \
    do {                                                                                                               \
        double greatest_expected = (expected), greatest_got = (got), greatest_tolerance = (tolerance);                 \
        greatest_info.assertions++;                                                                                    \
        if (!(greatest_got - greatest_expected <= greatest_tolerance &&                                                \
              greatest_expected - greatest_got <= greatest_tolerance)) {                                               \
            printf("\nexpected %g +/- %g, got %g\n", greatest_expected, greatest_tolerance, greatest_got);             \
            FAILm(message);                                                                                            \
        }                                                                                                              \
    } while (0)

#define ASSERT_STR_EQm(message, expected, got)                                                                         \
    do {                                                                                                               \
        const char *greatest_expected = (expected), *greatest_got = (got);                                             \
        greatest_info.assertions++;                                                                                    \
        if (strcmp(greatest_expected, greatest_got) != 0) {                                                            \
            printf("\nexpected \"%s\", got \"%s\"\n", greatest_expected, greatest_got);                                \
            FAILm(message);                                                                                            \
        }                                                                                                              \
    } while (0)

/* Upstream casts what it is given without parentheses around it, so that x + i there is i bytes behind x, whatever x
   points to: a test gives such a pointer a name first. It is so here too, or nobody would notice. */
#define ASSERT_MEM_EQm(message, expected, got, size)                                                                   \
    do {                                                                                                               \
        const unsigned char *greatest_expected = (const unsigned char *)expected;                                      \
        const unsigned char *greatest_got = (const unsigned char *)got;                                                \
        ASSERTm(message, memcmp(greatest_expected, greatest_got, (size)) == 0);                                        \
    } while (0)

#define ASSERT(condition)                  ASSERTm(#condition, condition)
#define ASSERT_FALSE(condition)            ASSERT_FALSEm("not " #condition, condition)
#define ASSERT_EQ(expected, got)           ASSERT_EQm(#expected " != " #got, expected, got)
#define ASSERT_NEQ(expected, got)          ASSERT_NEQm(#expected " == " #got, expected, got)
#define ASSERT_GT(a, b)                    ASSERT_GTm(#a " <= " #b, a, b)
#define ASSERT_GTE(a, b)                   ASSERT_GTEm(#a " < " #b, a, b)
#define ASSERT_LT(a, b)                    ASSERT_LTm(#a " >= " #b, a, b)
#define ASSERT_LTE(a, b)                   ASSERT_LTEm(#a " > " #b, a, b)
#define ASSERT_EQ_FMT(expected, got, fmt)  ASSERT_EQ_FMTm(#expected " != " #got, expected, got, fmt)
#define ASSERT_IN_RANGE(expected, got, t)  ASSERT_IN_RANGEm(#expected " != " #got " +/- " #t, expected, got, t)
#define ASSERT_STR_EQ(expected, got)       ASSERT_STR_EQm(#expected " != " #got, expected, got)
#define ASSERT_MEM_EQ(expected, got, size) ASSERT_MEM_EQm(#expected " != " #got, expected, got, size)
#define CHECK_CALL(call)                                                                                               \
    do {                                                                                                               \
        enum greatest_test_res greatest_check = (call);                                                                \
        if (greatest_check != GREATEST_TEST_RES_PASS) return greatest_check;                                           \
    } while (0)

#define GREATEST_OWN_RUN(name, call)                                                                                   \
    do {                                                                                                               \
        if (greatest_info.test_filter && !strstr(name, greatest_info.test_filter)) break;                              \
        if (greatest_info.verbosity) printf("%s ", name), fflush(stdout);                                              \
        greatest_info.msg = NULL;                                                                                      \
        enum greatest_test_res greatest_res = (call);                                                                  \
        const char *greatest_text = greatest_info.msg ? greatest_info.msg : "";                                        \
        if (greatest_res == GREATEST_TEST_RES_PASS) {                                                                  \
            greatest_info.passed++;                                                                                    \
            printf(greatest_info.verbosity ? "PASS\n" : ".");                                                          \
        } else if (greatest_res == GREATEST_TEST_RES_SKIP) {                                                           \
            greatest_info.skipped++;                                                                                   \
            printf("\nSKIP %s: %s\n", name, greatest_text);                                                            \
        } else {                                                                                                       \
            greatest_info.failed++;                                                                                    \
            printf("\nFAIL %s: %s (%s:%d)\n", name, greatest_text, greatest_info.fail_file, greatest_info.fail_line);  \
        }                                                                                                              \
        fflush(stdout);                                                                                                \
    } while (0)

#define RUN_TEST(test)          GREATEST_OWN_RUN(#test, test())
#define RUN_TEST1(test, env)    GREATEST_OWN_RUN(#test, test(env))
#define RUN_TESTp(test, ...)    GREATEST_OWN_RUN(#test, test(__VA_ARGS__))
#define RUN_SUITE(suite)                                                                                               \
    do {                                                                                                               \
        if (greatest_info.suite_filter && !strstr(#suite, greatest_info.suite_filter)) break;                          \
        printf("\n* Suite %s:\n", #suite);                                                                             \
        suite();                                                                                                       \
    } while (0)

#define GREATEST_MAIN_BEGIN()                                                                                          \
    do {                                                                                                               \
        for (int greatest_arg = 1; greatest_arg < argc; greatest_arg++) {                                              \
            if (!strcmp(argv[greatest_arg], "-v")) greatest_info.verbosity = 1;                                        \
            else if (!strcmp(argv[greatest_arg], "-t") && greatest_arg + 1 < argc)                                     \
                greatest_info.test_filter = argv[++greatest_arg];                                                      \
            else if (!strcmp(argv[greatest_arg], "-s") && greatest_arg + 1 < argc)                                     \
                greatest_info.suite_filter = argv[++greatest_arg];                                                     \
            else fprintf(stderr, "usage: %s [-v] [-t TEST] [-s SUITE]\n", argv[0]), exit(EXIT_FAILURE);                \
        }                                                                                                              \
    } while (0)

#define GREATEST_MAIN_END()                                                                                            \
    do {                                                                                                               \
        printf("\nTotal: %u tests, %u assertions\n", greatest_info.passed + greatest_info.failed +                     \
               greatest_info.skipped, greatest_info.assertions);                                                       \
        printf("Pass: %u, fail: %u, skip: %u.\n", greatest_info.passed, greatest_info.failed, greatest_info.skipped);  \
        return greatest_info.failed ? EXIT_FAILURE : EXIT_SUCCESS;                                                     \
    } while (0)

#endif
