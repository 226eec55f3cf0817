/* Command lines against a table: what is taken, what is refused and with which words, what --help prints. */
#include "cli/args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const ArgOption options[] = {
    {"set", 's', ARG_SETTING, true, "SECTION.KEY=VALUE", NULL, 0, 0, "a setting"},
    {"resume", 0, ARG_CHOICE, false, NULL, "auto|must|never", 0, 0, "when to go on (auto)"},
    {"quiet", 'q', ARG_FLAG, false, NULL, NULL, 0, 0, "say less"},
    {"verbose", 'v', ARG_FLAG, false, NULL, NULL, 0, 0, "say more"},
    {"seed", 0, ARG_INT, false, "N", NULL, 0, 4294967295.0, "of everything"},
    {"shift", 'n', ARG_INT, false, "N", NULL, 0, 0, "any whole number"},
    {"rate", 0, ARG_FLOAT, false, "X", NULL, 0.5, 1e300, "at least a half"},
    {"limit", 0, ARG_DURATION, false, "TIME", NULL, 0, 0, "of the process"},
    {"out", 0, ARG_DIR, false, "DIR", NULL, 0, 0, "folder"},
};
static const char *const examples[] = {"demo go a.ini --seed 3", NULL};

static int runs; /* of the sub-command */

static Err *run_go(const Args *args)
{
    runs += (int)args_count(args);
    return NULL;
}

static const Command go = {.name = "go",
                           .arguments = "FILE...",
                           .argument_kind = ARG_FILE,
                           .min_arguments = 1,
                           .max_arguments = 2,
                           .summary = "does something",
                           .options = options,
                           .option_count = sizeof options / sizeof options[0],
                           .examples = examples,
                           .run = run_go};
static const Command stay = {.name = "stay", .arguments = "", .summary = "nothing", .run = run_go};
static const Command *const subs[] = {&go, &stay, NULL};
static const Command demo = {
    .name = "demo", .arguments = "", .summary = "a program", .commands = subs};

enum { MAX_WORDS = 32 };

/* Words of a command line; the text is cut up. */
static int split(char *text, char *argv[MAX_WORDS])
{
    int argc = 0;
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        assert_true(argc + 1 < MAX_WORDS);
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    return argc;
}

static char line[1024]; /* the parsed arguments point into it */

static Args *parsed(const char *words)
{
    (void)snprintf(line, sizeof line, "go %s", words);
    char *argv[MAX_WORDS];
    const int argc = split(line, argv);
    Args *args;
    Err *err = args_parse(&go, "demo go", argc, argv, &args);
    if (err) {
        fail_msg("%s: %s", words, err->message);
    }
    assert_non_null(args);
    return args;
}

static void refused(const Command *command, const char *path, const char *words, const char *part)
{
    (void)snprintf(line, sizeof line, "go %s", words);
    char *argv[MAX_WORDS];
    const int argc = split(line, argv);
    Err *err = args_run(command, path, argc, argv);
    if (!err || err->code != EXIT_USAGE_ERR || !strstr(err->message, part)) {
        fail_msg("'%s' should be refused with '%s'; got %s", words, part,
                 err ? err->message : "nothing");
    }
    err_free(err);
}

static void values_arrive(void **state)
{
    (void)state;
    Args *args = parsed("a.ini --seed 7 --set a.b=1 -s c.d=2 --resume=never -qv --rate 1e3 -n-5 "
                        "--limit 1h30m b.ini --out=x=y");
    size_t count;
    assert_int_equal(args_count(args), 2);
    assert_string_equal(args_at(args, 0), "a.ini");
    assert_string_equal(args_at(args, 1), "b.ini");
    assert_int_equal(args_int(args, "seed", 1), 7);
    assert_int_equal(args_int(args, "shift", 1), -5);
    const char *const *set = args_all(args, "set", &count);
    assert_int_equal(count, 2);
    assert_string_equal(set[0], "a.b=1");
    assert_string_equal(set[1], "c.d=2");
    assert_int_equal(args_choice(args, "resume", 0), 2);
    assert_string_equal(args_text(args, "resume", NULL), "never");
    assert_true(args_flag(args, "quiet") && args_flag(args, "verbose"));
    assert_true(args_float(args, "rate", 0) == 1000.0);
    assert_true(args_float(args, "limit", 0) == 5400.0);
    assert_string_equal(args_text(args, "out", NULL), "x=y");
    args_free(args);
}

static void fallbacks_where_nothing_was_given(void **state)
{
    (void)state;
    Args *args = parsed("--seed 0 -- --seed");
    size_t count = 9;
    assert_int_equal(args_count(args), 1);
    assert_string_equal(args_at(args, 0), "--seed");
    assert_true(args_given(args, "seed") && !args_given(args, "out"));
    assert_int_equal(args_int(args, "seed", 5), 0);
    assert_int_equal(args_int(args, "shift", 5), 5);
    assert_null(args_text(args, "out", NULL));
    assert_int_equal(args_choice(args, "resume", 1), 1);
    assert_true(args_float(args, "limit", 2.5) == 2.5);
    assert_false(args_flag(args, "quiet"));
    (void)args_all(args, "set", &count);
    assert_int_equal(count, 0);
    args_free(args);
    args = parsed("-"); /* a single dash is an argument */
    assert_string_equal(args_at(args, 0), "-");
    args_free(args);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *words, *part;
    } cases[] = {
        {"", "FILE... is missing; usage: demo go FILE... [options]"},
        {"a b c", "unexpected argument 'c'"},
        {"a --sede 3", "unknown option --sede; did you mean --seed? ('demo go --help' lists them)"},
        {"a --verb", "did you mean --verbose?"},
        {"a --nonsense-of-mine", "unknown option --nonsense-of-mine ("},
        {"a -z", "unknown option -z ("},
        {"a -qz", "unknown option -z ("},
        {"a --seed", "--seed needs a value: --seed N"},
        {"a --seed --quiet", "--seed needs a value"},
        {"a --resume", "--resume auto|must|never"},
        {"a --seed 1 --seed 2", "--seed is given twice"},
        {"a -q --quiet", "--quiet is given twice"},
        {"a --quiet=yes", "--quiet takes no value"},
        {"a --seed=", "a whole number from 0 to 4294967295"},
        {"a --seed 1.5", "a whole number from 0 to 4294967295"},
        {"a --seed 0x10", "a whole number"},
        {"a --seed -1", "a whole number"},
        {"a --seed 4294967296", "a whole number"},
        {"a --shift 99999999999999999999", "a whole number is needed"},
        {"a --rate 0.4", "a number of at least 0.5"},
        {"a --rate nan", "a number"},
        {"a --rate 1e999", "a number"},
        {"a --limit soon", "90s, 12h or 23h50m"},
        {"a --resume msut", "use auto, must or never; did you mean 'must'?"},
        {"a --set lr=3", "section.key=value"},
        {"a --set optim.lr", "section.key=value"},
        {"a --out=", "--out '': the value is empty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        refused(&go, "demo go", cases[i].words, cases[i].part);
    }
}

static void sub_commands_are_found(void **state)
{
    (void)state;
    char *argv[] = {"demo", "go", "x", "y", NULL};
    runs = 0;
    assert_null(args_run(&demo, "demo", 4, argv));
    assert_int_equal(runs, 2);
    refused(&demo, "demo", "", "demo: a command is missing: go or stay ('demo --help' explains)");
    refused(&demo, "demo", "og", "unknown command 'og'; did you mean 'go'? ('demo --help'");
    refused(&demo, "demo", "--halp", "unknown option '--halp'; did you mean '--help'?");
    refused(&demo, "demo", "zzzzzz", "unknown command 'zzzzzz' (");
    refused(&demo, "demo", "go", "go: FILE... is missing");
    refused(&demo, "demo", "stay here", "stay: unexpected argument 'here'; usage: demo stay");
}

static char *help_of(const Command *command, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    args_help(command, path, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void assert_narrow(const char *text)
{
    for (const char *at = text; *at;) {
        const size_t length = strcspn(at, "\n");
        if (length > 80) {
            fail_msg("%zu columns: %.*s", length, (int)length, at);
        }
        at += length + (at[length] == '\n');
    }
}

static void help_has_everything(void **state)
{
    (void)state;
    char *text = help_of(&go, "demo go");
    static const char *const parts[] = {"usage: demo go FILE... [options]\n",
                                        "does something\n",
                                        "  -s, --set SECTION.KEY=VALUE   a setting; may be rep",
                                        "      --resume auto|must|never  when to go on (auto)\n",
                                        "  -q, --quiet                   say less\n",
                                        "  -h, --help                    this text\n",
                                        "examples:\n  demo go a.ini --seed 3\n"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (!strstr(text, parts[i])) {
            fail_msg("no '%s' in\n%s", parts[i], text);
        }
    }
    assert_narrow(text);
    free(text);
    text = help_of(&demo, "demo");
    assert_non_null(strstr(text, "commands:\n  go    does something\n  stay  nothing\n"));
    free(text);
}

static void long_help_is_wrapped(void **state)
{
    (void)state;
    static const ArgOption wide[] = {
        {"a-very-long-option-indeed", 0, ARG_TEXT, false, "SOMETHING", NULL, 0, 0,
         "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"},
        {"b", 0, ARG_FLAG, false, NULL, NULL, 0, 0, "short"}};
    const Command command = {.name = "w",
                             .arguments = "",
                             .summary = "s",
                             .details = "First paragraph of words that do not fit into one line of "
                                        "eighty columns at all.\n\nSecond.",
                             .options = wide,
                             .option_count = 2,
                             .run = run_go};
    char *text = help_of(&command, "w");
    assert_narrow(text);
    assert_non_null(strstr(text, "all.\n\nSecond.\n"));
    assert_non_null(strstr(text, "SOMETHING\n              one two"));
    free(text);
}

static void help_wins_over_mistakes(void **state)
{
    (void)state;
    static char *lines[][4] = {{"demo", "go", "--sede", "--help"},
                               {"demo", "--help", "zzz", "x"},
                               {"demo", "stay", "-h", "here"}};
    char path[] = "/tmp/cudistill_args_XXXXXX";
    const int file = mkstemp(path);
    const int kept = dup(STDOUT_FILENO);
    assert_true(file >= 0 && kept >= 0);
    (void)fflush(stdout);
    assert_true(dup2(file, STDOUT_FILENO) >= 0);
    int failed = 0;
    runs = 0;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        Err *err = args_run(&demo, "demo", 4, lines[i]);
        failed += err != NULL;
        err_free(err);
    }
    (void)fflush(stdout);
    assert_true(dup2(kept, STDOUT_FILENO) >= 0);
    const off_t written = lseek(file, 0, SEEK_END);
    (void)close(kept);
    (void)close(file);
    (void)unlink(path);
    assert_int_equal(failed, 0);
    assert_int_equal(runs, 0);
    assert_true(written > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(fallbacks_where_nothing_was_given),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(sub_commands_are_found),
        cmocka_unit_test(help_has_everything),
        cmocka_unit_test(long_help_is_wrapped),
        cmocka_unit_test(help_wins_over_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
