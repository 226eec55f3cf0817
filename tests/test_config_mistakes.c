/* Mistakes that people make in configurations: 100 drawn from the key table and from what other programs call our keys, each
 * found at its line, nearly all with the right suggestion; 25 and more in one file, all told at once. Nothing of it leaves
 * anything on disk. */
#include "base/rng.h"
#include "base/text.h"
#include "config_rig.h"
#include "train/settings.h"
#include "train/settings_names.h"

enum {
    MISTAKES = 100,
    WANTED = 90,
    ROUNDS = 20 /* of 100 mistakes; the first is the one that counts, the others show its luck */
};

/* ---- One mistake ---- */

typedef struct {
    char *text;        /* of the file; NULL: the override alone */
    char *override;    /* or NULL */
    int line;          /* where the mistake stands */
    const char *file;  /* "my.ini" unless another one is meant */
    char *suggestion;  /* stands in the message; the mistake is well answered */
    char *alternative; /* another good answer, or NULL */
    const char *kind;
    bool more; /* may be told in more than one error */
} Mistake;

static void mistake_free(Mistake *m)
{
    free(m->text);
    free(m->override);
    free(m->suggestion);
    free(m->alternative);
}

/* A valid configuration that uses every section, with the last section open; *lines counts its lines. */
static void begin_file(Rng *rng, Text *text, int *lines)
{
    static const char *const parts[] = {
        "# an experiment\n",
        "[run]\n",
        "name = try\n",
        "seed = 3\n",
        "\n",
        "; the networks\n",
        "[teacher]\n",
        "model = wrn_16_2\n",
        "weights = teacher.pth\n",
        "[student]\n",
        "model = resnet20\n",
        "[distill]\n",
        "method = energy_kd\n",
    };
    *lines = 0;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        for (uint32_t extra = rng_below(rng, 3); extra > 0; extra--) {
            text_puts(text, rng_below(rng, 2) ? "# a remark with = and [brackets]\n" : "\n");
            ++*lines;
        }
        text_puts(text, parts[i]);
        ++*lines;
    }
}

static bool is_key(const char *section, const char *key)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].section, section) == 0 && strcmp(rows[i].key, key) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_section(const char *section)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rows[i].section, section) == 0) {
            return true;
        }
    }
    return false;
}

static const ConfigKey *draw_row(Rng *rng)
{
    size_t count;
    const ConfigKey *rows = settings_schema(&count);
    return &rows[rng_below(rng, (uint32_t)count)];
}

static const ConfigKey *draw_typed(Rng *rng, ConfigType type)
{
    const ConfigKey *row = draw_row(rng);
    while (row->type != type) {
        row = draw_row(rng);
    }
    return row;
}

static char letter(Rng *rng)
{
    return (char)('a' + rng_below(rng, 26));
}

/* One slip of the fingers: 0 a letter left out, 1 one too many, 2 two exchanged, 3 a wrong one. */
static char *slip(Rng *rng, const char *word, uint32_t kind)
{
    const size_t n = strlen(word);
    const size_t at = rng_below(rng, (uint32_t)n);
    switch (kind) {
    case 0:
        return xformat("%.*s%s", (int)at, word, word + at + 1);
    case 1:
        return xformat("%.*s%c%s", (int)at, word, letter(rng), word + at);
    case 2:
        return at + 1 < n
                   ? xformat("%.*s%c%c%s", (int)at, word, word[at + 1], word[at], word + at + 2)
                   : slip(rng, word, kind);
    default:
        return xformat("%.*s%c%s", (int)at, word, letter(rng), word + at + 1);
    }
}

static const char *value_of(const ConfigKey *row)
{
    return row->fallback != NULL && row->fallback[0] != '\0' ? row->fallback : "1";
}

/* "[section]" and a line below it. */
static void close_file(Mistake *m, Text *text, int lines, const char *section, const char *line)
{
    text_add(text, "[%s]\n%s\n", section, line);
    m->text = text->text;
    m->line = lines + 2;
}

static Mistake mistyped_key(Rng *rng)
{
    Mistake m = {.kind = "key"};
    const ConfigKey *row = draw_row(rng);
    char *typo = xstrdup(row->key);
    const uint32_t slips = strlen(row->key) >= 6 && rng_below(rng, 3) == 0 ? 2 : 1;
    for (uint32_t i = 0; i < slips || is_key(row->section, typo) || typo[0] == '\0'; i++) {
        char *next = slip(rng, typo[0] != '\0' ? typo : row->key, rng_below(rng, 4));
        free(typo);
        typo = next;
    }
    Text text = {0};
    int lines;
    begin_file(rng, &text, &lines);
    char *line = xformat("%s = %s", typo, value_of(row));
    close_file(&m, &text, lines, row->section, line);
    m.suggestion = xformat("did you mean '%s'?", row->key);
    free(line);
    free(typo);
    return m;
}

static Mistake mistyped_section(Rng *rng)
{
    Mistake m = {.kind = "section"};
    const ConfigKey *row = draw_row(rng);
    while (strcmp(row->section, "energy_kd") == 0) {
        row = draw_row(rng);
    }
    char *typo = slip(rng, row->section, rng_below(rng, 4));
    while (is_section(typo)) {
        free(typo);
        typo = slip(rng, row->section, rng_below(rng, 4));
    }
    Text text = {0};
    int lines;
    begin_file(rng, &text, &lines);
    close_file(&m, &text, lines, typo, "");
    m.line--;
    m.suggestion = xformat("did you mean '%s'?", row->section);
    free(typo);
    return m;
}

static Mistake wrong_section(Rng *rng)
{
    Mistake m = {.kind = "place"};
    const ConfigKey *row = draw_row(rng);
    const char *other = draw_row(rng)->section;
    while (is_key(other, row->key)) {
        row = draw_row(rng);
        other = draw_row(rng)->section;
    }
    Text text = {0};
    int lines;
    begin_file(rng, &text, &lines);
    char *line = xformat("%s = %s", row->key, value_of(row));
    close_file(&m, &text, lines, other, line);
    m.suggestion = xformat("[%s]", row->section);
    m.alternative = xformat("%s.%s", row->section, row->key);
    free(line);
    return m;
}

static Mistake wrong_case(Rng *rng)
{
    Mistake m = {.kind = "case"};
    const ConfigKey *row = draw_row(rng);
    char *key = xstrdup(row->key);
    const uint32_t way = rng_below(rng, 3);
    for (char *at = key; *at != '\0'; at++) {
        if (way == 0 || (way == 1 && at == key)) {
            *at = *at >= 'a' && *at <= 'z' ? (char)(*at - 'a' + 'A') : *at;
        } else if (way == 2) {
            *at = *at == '_' ? '-' : *at;
        }
    }
    if (strcmp(key, row->key) == 0) {
        free(key);
        return wrong_case(rng);
    }
    Text text = {0};
    int lines;
    begin_file(rng, &text, &lines);
    char *line = xformat("%s = %s", key, value_of(row));
    close_file(&m, &text, lines, row->section, line);
    m.suggestion = xformat("did you mean '%s'?", row->key);
    free(line);
    free(key);
    return m;
}

/* One name of the row in another program; dashes in front are left as they are. */
static char *draw_name(Rng *rng, const ConfigNames **row)
{
    size_t count;
    const ConfigNames *rows = settings_names(&count);
    const char *names = NULL;
    while (names == NULL) {
        *row = &rows[rng_below(rng, (uint32_t)count)];
        names = (*row)->names[rng_below(rng, NAMES_COUNT)];
    }
    char *copy = xstrdup(names);
    char *bar = strchr(copy, '|');
    if (bar != NULL && rng_below(rng, 2)) {
        *bar = '\0';
    } else if (bar != NULL) {
        memmove(copy, bar + 1, strlen(bar));
        copy[strcspn(copy, "|")] = '\0';
    }
    return copy;
}

static Mistake foreign_name(Rng *rng)
{
    Mistake m = {.kind = "foreign"};
    const ConfigNames *row;
    char *name = draw_name(rng, &row);
    const char *bare = name + strspn(name, "-");
    if (is_key(row->section, bare)) {
        free(name);
        return foreign_name(rng);
    }
    m.suggestion = xformat("%s.%s", row->section, row->key);
    m.alternative = xformat("'%s'", row->key);
    const char *dot = strrchr(name, '.');
    if (rng_below(rng, 4) == 0) {
        m.override = dot != NULL ? xformat("%s=1", bare) : xformat("%s.%s=1", row->section, bare);
    } else {
        Text text = {0};
        int lines;
        begin_file(rng, &text, &lines);
        const bool split = dot != NULL && rng_below(rng, 2);
        char *line = xformat("%s = 1", split ? dot + 1 : bare);
        char *section = split ? xformat("%.*s", (int)(dot - name), name) : xstrdup(row->section);
        close_file(&m, &text, lines, section, line);
        m.more = split; /* the section is foreign as well */
        m.line -= split;
        free(section);
        free(line);
    }
    free(name);
    return m;
}

static Mistake wrong_value(Rng *rng)
{
    static const struct {
        ConfigType type;
        const char *value, *suggestion;
    } values[] = {
        {CONFIG_BOOL, "True", "write true"},
        {CONFIG_BOOL, "FALSE", "write false"},
        {CONFIG_BOOL, "1", "write true"},
        {CONFIG_BOOL, "ture", "write true"},
        {CONFIG_INT, "1e3", "write 1000"},
        {CONFIG_INT, "64.0", "write 64"},
        {CONFIG_INT, "64M", "no unit behind a number"},
        {CONFIG_INT, "\"64\"", "without quotes"},
        {CONFIG_INT, "0x40", "write it in decimal"},
        {CONFIG_INT, "64 # images", "comments go on lines of their own"},
        {CONFIG_INT, "None", "leave the line out"},
        {CONFIG_INT, "99999999999999999999", "does not fit"},
        {CONFIG_FLOAT, "0.1/512", "write 0.0001953125"},
        {CONFIG_FLOAT, "10%", "0.1 for the share"},
        {CONFIG_FLOAT, "= 0.1", "one '='"},
        {CONFIG_FLOAT, "0,1", "a point before the decimals"},
        {CONFIG_FLOAT, "-1e9", "allowed: "},
        {CONFIG_FLOAT, "fast", "is not a number"},
        {CONFIG_FLOATS, "[0.5, 0.5, 0.5]", "write 0.5, 0.5, 0.5"},
        {CONFIG_FLOATS, "0.5 0.5 0.5", "commas"},
        {CONFIG_FLOATS, "0.5, , 0.5", "element 2"},
        {CONFIG_INTS, "(30, 60)", "write 30, 60"},
        {CONFIG_INTS, "0, 5", "allowed: "},
        {CONFIG_STRING, "\"quoted\"", "write quoted without"},
        {CONFIG_STRING, "${HOME}/x", "in paths only"},
        {CONFIG_PATH, "'/data'", "write /data without"},
        {CONFIG_PATH, "~/data", "${HOME}"},
        {CONFIG_PATH, "${CIFAR_ROOT}", "did you mean ${CIFAR100_ROOT}?"},
    };
    const size_t pick = rng_below(rng, sizeof values / sizeof values[0]);
    Mistake m = {.kind = "value", .suggestion = xstrdup(values[pick].suggestion)};
    const ConfigKey *row = draw_typed(rng, values[pick].type);
    while (strcmp(row->section, "run") == 0 || strcmp(row->section, "teacher") == 0 ||
           strcmp(row->section, "student") == 0) {
        row = draw_typed(rng, values[pick].type); /* given in the file already */
    }
    Text text = {0};
    int lines;
    begin_file(rng, &text, &lines);
    char *line = xformat("%s = %s", row->key, values[pick].value);
    close_file(&m, &text, lines, row->section, line);
    free(line);
    return m;
}

static Mistake wrong_choice(Rng *rng)
{
    static const char *const words[][3] = {
        {"train.precision", "bfloat16", "bf16"},
        {"train.precision", "float16", "fp16"},
        {"train.precision", "FP32", "fp32"},
        {"schedule.kind", "step", "multistep"},
        {"schedule.kind", "Cosine", "cosine"},
        {"schedule.kind", "CosineAnnealingLR", "cosine"},
        {"dist.device", "gpu", "cuda"},
        {"dist.device", "CPU", "cpu"},
        {"data.kind", "cifar-100", "cifar100"},
        {"data.kind", "CIFAR100", "cifar100"},
        {"optim.kind", "SGD", "sgd"},
        {"data.resident", "true", "on"},
        {"data.kind", "sinthetic", "synthetic"},
        {"train.capture", "False", "off"},
        {"student.model", "resnet-20x", "resnet20"},
        {"student.model", "renset56", "resnet56"},
    };
    const size_t pick = rng_below(rng, sizeof words / sizeof words[0]);
    Mistake m = {.kind = "choice"};
    Text text = {0};
    int lines;
    const char *dot = strchr(words[pick][0], '.');
    char *section = xformat("%.*s", (int)(dot - words[pick][0]), words[pick][0]);
    if (strcmp(section, "student") == 0) {
        m.override = xformat("%s=%s", words[pick][0], words[pick][1]);
    } else {
        begin_file(rng, &text, &lines);
        char *line = xformat("%s = %s", dot + 1, words[pick][1]);
        close_file(&m, &text, lines, section, line);
        free(line);
    }
    m.suggestion = xformat("did you mean '%s'?", words[pick][2]);
    free(section);
    return m;
}

/* What is wrong with the shape of a line or a file. */
static Mistake wrong_shape(Rng *rng)
{
    static const struct {
        const char *line, *suggestion;
    } lines[] = {
        {"lr: 0.1", "write 'lr = 0.1'"},
        {"lr 0.1", "write 'lr = 0.1'"},
        {"--lr=0.1", "did you mean 'lr'?"},
        {"  lr = 0.1", "begin it in the first column"},
        {"\tlr = 0.1", "begin it in the first column"},
        {"lr = 0.1 ; high", "comments go on lines of their own"},
        {"[optim", "write [optim]"},
        {"[ optim ]", "write [optim]"},
        {"[[optim]]", "write [optim]"},
        {"[optim] lr = 0.1", "put 'lr = 0.1' on the next one"},
        {"[optim] # the optimizer", "comments go on lines of their own"},
        {"lr = 0.1\nlr = 0.2", "first in line"},
        {"include = base.ini", "must stand above the first [section]"},
        {"optim.lr = 0.1", "write 'lr' below [optim]"},
        {"SOLVER.LR = 0.1", "mdistiller's SOLVER.LR is optim.lr here"},
        {"lr = 0.1\xff", "save the file as UTF-8"},
        {"lr = \x01", "control character 0x01"},
    };
    const size_t pick = rng_below(rng, sizeof lines / sizeof lines[0]);
    Mistake m = {.kind = "shape", .suggestion = xstrdup(lines[pick].suggestion)};
    Text text = {0};
    int before;
    begin_file(rng, &text, &before);
    close_file(&m, &text, before, "optim", lines[pick].line);
    m.line += strchr(lines[pick].line, '\n') != NULL;
    return m;
}

/* What is wrong among several keys or files. */
static Mistake wrong_together(Rng *rng)
{
    static const struct {
        const char *text;
        int line;
        const char *file, *suggestion;
    } cases[] = {
        {"[distill]\nmethod = kd\n", 2, NULL, "set teacher.model and teacher.weights"},
        {"[data]\nkind = cifar100\n", 2, NULL, "data.root is missing"},
        {"[schedule]\nepochs = 5\nwarmup_epochs = 5\n", 3, NULL, "must be below"},
        {"[schedule]\nmilestones = 60, 30\n", 2, NULL, "must rise: 30 comes after 60"},
        {"[optim]\nmomentum = 0\nnesterov = true\n", 3, NULL, "optim.momentum above 0"},
        {"[optim]\n\nloss_scale = dinamic\n", 3, NULL, "did you mean 'dynamic'?"},
        {"[train]\ntime_limit = 2 hours\n", 2, NULL, "12h"},
        {"[augment]\nmean = 0.5\n", 2, NULL, "write 0.5, 0.5, 0.5"},
        {"[energy_kd]\nr_low = 0.1\n", 2, NULL, "set distill.method = energy_kd"},
        {"seed = 3\n[run]\n", 1, NULL, "it belongs to [run]"},
        {"inculde = base.ini\n", 1, NULL, "did you mean 'include'?"},
        {"include = bass.ini\n", 1, NULL, "did you mean 'base.ini'?"},
        {"include = loop.ini\n", 2, "loop.ini", "would include itself"},
        {"include = broken.ini\n", 2, "broken.ini", "did you mean 'epochs'?"},
        {"include = base.ini\n\ninclude = base.ini\n", 3, NULL, "one is allowed"},
    };
    const size_t pick = rng_below(rng, sizeof cases / sizeof cases[0]);
    return (Mistake){.kind = "together",
                     .text = xstrdup(cases[pick].text),
                     .line = cases[pick].line,
                     .file = cases[pick].file,
                     .suggestion = xstrdup(cases[pick].suggestion)};
}

static Mistake draw(uint32_t index, Rng *rng)
{
    static Mistake (*const makers[])(Rng *) = {
        mistyped_key,  mistyped_key,  mistyped_key, mistyped_key, mistyped_section,
        wrong_section, wrong_section, foreign_name, foreign_name, wrong_value,
        wrong_value,   wrong_choice,  wrong_case,   wrong_shape,  wrong_together};
    return makers[index % (sizeof makers / sizeof makers[0])](rng);
}

/* True where the message has the right suggestion; place and code have no luck about them. */
static bool is_answered(const Mistake *m)
{
    if (m->text != NULL) {
        write_bytes(main_file, m->text, strlen(m->text));
    }
    const char *const overrides[] = {m->override};
    Settings settings;
    Err *err = settings_load(m->text != NULL ? main_file : NULL, overrides, m->override != NULL,
                             &settings);
    if (err == NULL) {
        fail_msg("%s: nothing is wrong with\n%s%s", m->kind, m->text != NULL ? m->text : "",
                 m->override != NULL ? m->override : "");
    }
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    char *file = path_join(dir, m->file != NULL ? m->file : "my.ini");
    char *place =
        m->override != NULL ? xformat("--set %s: ", m->override) : xformat("%s:%d:", file, m->line);
    if (strncmp(err->message, place, strlen(place)) != 0) {
        fail_msg("%s: '%s' does not begin with '%s'", m->kind, err->message, place);
    }
    if (!m->more && strstr(err->message, "\n1 error, nothing was started.") == NULL) {
        fail_msg("%s: more than one error: %s", m->kind, err->message);
    }
    const bool right = strstr(err->message, m->suggestion) != NULL ||
                       (m->alternative != NULL && strstr(err->message, m->alternative) != NULL);
    if (!right && getenv("CUDISTILL_SHOW") != NULL) {
        print_message("%s: wanted '%s':\n  %s\n", m->kind, m->suggestion, err->message);
    }
    free(place);
    free(file);
    err_free(err);
    return right;
}

static void a_hundred_mistakes_are_answered(void **state)
{
    (void)state;
    write_companions();
    const size_t before = names_in(dir);
    int worst = MISTAKES;
    int sum = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        int right = 0;
        for (uint32_t i = 0; i < MISTAKES; i++) {
            Rng rng = rng_make(20 + round, 0, i, RNG_TEST);
            Mistake m = draw(i, &rng);
            right += is_answered(&m);
            mistake_free(&m);
        }
        if (round == 0) {
            print_message("%d of %d mistakes with the right suggestion\n", right, MISTAKES);
        }
        assert_true(right >= WANTED);
        worst = right < worst ? right : worst;
        sum += right;
    }
    print_message("in %d rounds: %.1f on average, %d at worst\n", ROUNDS, (double)sum / ROUNDS,
                  worst);
    assert_int_equal(names_in(dir), before);
    assert_int_equal(names_in(work), 0);
}

/* Spellings that people bring along, with the section where they would put them, as they stand in the programs' own
 * command lines and files; not drawn from our table. */
static void names_of_other_programs_are_known(void **state)
{
    (void)state;
    static const char *const names[][3] = {
        {"distill", "kd_T", "RepDistiller's kd_T is distill.temperature here"},
        {"distill", "T", "distill.temperature"},
        {"distill", "tau", "distill.temperature"},
        {"distill", "alpha", "RepDistiller's alpha is distill.kd_weight here"},
        {"distill", "gamma", "RepDistiller's gamma is distill.ce_weight here"},
        {"optim", "learning_rate", "RepDistiller's learning_rate is optim.lr here"},
        {"optim", "lr_decay_epochs", "RepDistiller's lr_decay_epochs is schedule.milestones here"},
        {"schedule", "lr_decay_rate", "RepDistiller's lr_decay_rate is schedule.gamma here"},
        {"train", "batch_size", "RepDistiller's batch_size is train.batch here"},
        {"train", "num_workers", "RepDistiller's num_workers is data.workers here"},
        {"student", "model_s", "RepDistiller's model_s is student.model here"},
        {"teacher", "path_t", "RepDistiller's path_t is teacher.weights here"},
        {"optim", "SOLVER.LR", "mdistiller's SOLVER.LR is optim.lr here"},
        {"SOLVER", "LR_DECAY_STAGES",
         "mdistiller's SOLVER.LR_DECAY_STAGES is schedule.milestones here"},
        {"SOLVER", "EPOCHS", "mdistiller's SOLVER.EPOCHS is schedule.epochs here"},
        {"KD", "TEMPERATURE", "mdistiller's KD.TEMPERATURE is distill.temperature here"},
        {"KD.LOSS", "CE_WEIGHT", "mdistiller's KD.LOSS.CE_WEIGHT is distill.ce_weight here"},
        {"DISTILLER", "TEACHER", "mdistiller's DISTILLER.TEACHER is teacher.model here"},
        {"EXPERIMENT", "NAME", "mdistiller's EXPERIMENT.NAME is run.name here"},
        {"optim", "weight-decay", "did you mean 'weight_decay'?"},
        {"optim", "wd", "optim.weight_decay"},
        {"optim", "opt", "timm's opt is optim.kind here"},
        {"schedule", "sched", "timm's sched is schedule.kind here"},
        {"distill", "smoothing", "timm's smoothing is distill.label_smoothing here"},
        {"data", "data_dir", "data.root"},
        {"data", "dataset", "data.kind"},
        {"train", "amp", "timm's amp is train.precision here"},
        {"train", "bs", "train.batch"},
        {"train", "num_epochs", "schedule.epochs"},
        {"train", "lr", "it belongs to [optim]"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *text = xformat("[%s]\n%s = 1\n", names[i][0], names[i][1]);
        write_bytes(main_file, text, strlen(text));
        Settings settings;
        Err *err = settings_load(main_file, NULL, 0, &settings);
        assert_non_null(err);
        if (strstr(err->message, names[i][2]) == NULL) {
            fail_msg("[%s] %s: wanted '%s' in %s", names[i][0], names[i][1], names[i][2],
                     err->message);
        }
        err_free(err);
        free(text);
    }
}

/* ---- Many at once ---- */

static void all_mistakes_of_a_file_are_told_at_once(void **state)
{
    (void)state;
    write_companions();
    static const struct {
        const char *line;
        const char *told; /* behind "FILE:LINE:"; NULL: nothing is wrong with the line */
    } lines[] = {
        {"seed = 3", "1: 'seed' stands before the first [section]; it belongs to [run]"},
        {"include = bass.ini", "11: include: cannot open"},
        {"[run]", NULL},
        {"name = \"a name\"", "8: run.name: quotes would be part of the text"},
        {"sede = 3", "1: unknown key 'sede' in [run]; did you mean 'seed'?"},
        {"deterministic = True", "17: run.deterministic: 'True' is not"},
        {"[Data]", "1: unknown section [Data]; did you mean 'data'?"},
        {"kind = cifar-100", "8: data.kind: 'cifar-100' is none of"},
        {"root = ${CIFAR_ROOT}", "8: data.root: environment variable CIFAR_ROOT is not set"},
        {"workers = 4 # cores", "11: data.workers: '4 # cores' is not a whole number"},
        {"[augment]", NULL},
        {"mean = [0.5, 0.5, 0.5]", "8: augment.mean: a list has no brackets"},
        {"std = 0.25", "7: augment.std needs 3 values"},
        {"[student]", NULL},
        {"model = resnet20x", "9: student.model: unknown model 'resnet20x'; did you mean"},
        {"[distill]", NULL},
        {"method = kd", "10: distill.method = kd needs a teacher"},
        {"kd_T = 4",
         "1: unknown key 'kd_T' in [distill]; RepDistiller's kd_T is distill.temperature"},
        {"temperature = -4", "15: distill.temperature: -4 is out of range; allowed: 0.01 to 1000"},
        {"[SOLVER]", "1: unknown section [SOLVER]; what mdistiller has in SOLVER is in"},
        {"LR = 0.05", "1: unknown key 'LR' in [SOLVER]; mdistiller's SOLVER.LR is optim.lr here"},
        {"[optim] lr = 0.1", "9: nothing may follow [optim] on its line"},
        {"lr = 0.1/512", "6: optim.lr: '0.1/512' is not a number; no arithmetic"},
        {"momentum: 0.9", "1: expected 'key = value', '[section]' or a comment; write 'momentum"},
        {" dampening = 0", "1: the line is indented"},
        {"loss_scale = big", "14: optim.loss_scale = big: use dynamic"},
        {"[schedule]", NULL},
        {"milestones = 60, 30", "14: schedule.milestones must rise: 30 comes after 60"},
        {"epochs = 1e2", "10: schedule.epochs: '1e2' is not a whole number; write 100"},
        {"gamma = 0.1", NULL},
        {"gamma = 0.2", "1: 'gamma' is given twice in [schedule]; first in line 30"},
        {"[train]", NULL},
        {"batch = 64M", "9: train.batch: '64M' is not a whole number; no unit behind a number"},
        {"time_limit = 2 hours", "14: train.time_limit = 2 hours: use"},
        {"[energy_kd]", NULL},
        {"r_low = 0.1", "9: energy_kd.r_low has no effect, distill.method is kd"},
    };
    Text text = {0};
    size_t wrong = 0;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        text_add(&text, "%s\n", lines[i].line);
        wrong += lines[i].told != NULL;
    }
    write_bytes(main_file, text.text, text.size);
    text_free(&text);
    Settings settings;
    Err *err = settings_load(main_file, NULL, 0, &settings);
    assert_non_null(err);
    assert_int_equal(err->code, EXIT_CONFIG_ERR);
    const char *at = err->message;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (lines[i].told == NULL) {
            continue;
        }
        char *want = xformat("%s:%zu:%s", main_file, i + 1, lines[i].told);
        if (strncmp(at, want, strlen(want)) != 0) {
            fail_msg("wanted '%s' next in\n%s", want, at);
        }
        free(want);
        at = strchr(at, '\n') + 1;
    }
    char *footer = xformat("%zu errors, nothing was started.", wrong);
    assert_string_equal(at, footer);
    free(footer);
    print_message("%zu mistakes in one file, %zu errors\n", wrong, wrong);
    assert_true(wrong >= 25);
    err_free(err);
    assert_int_equal(names_in(work), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hundred_mistakes_are_answered),
        cmocka_unit_test(names_of_other_programs_are_known),
        cmocka_unit_test(all_mistakes_of_a_file_are_told_at_once),
    };
    return cmocka_run_group_tests(tests, rig_open, rig_close);
}
