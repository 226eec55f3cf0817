/* A stack machine over bytes that builds values. The op-codes are Python's (Lib/pickletools.py documents each); the
 * handlers keep structure only. Every read is checked against the end of the pickle, every pop against the innermost
 * mark, so a pickle can neither read outside its bytes nor reach below its own frame of the stack. */
#include "io/pickle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PICKLE_MAX_BYTES = 64 << 20,
    VALUES_MAX = 1 << 21,
    STACK_MAX = 1 << 20,
    MEMO_MAX = 1 << 22,
    BLOCK_VALUES = 64 /* most pickles of a .pth file are tiny */,
    PROTOCOL_MAX = 5
};

struct Pickle {
    PickleValue **blocks; /* of BLOCK_VALUES values each */
    size_t block_count;
    size_t block_capacity;
    size_t value_count;
    PickleValue *root;
};

/* The machine while it runs. A mark is the height of the stack below it. */
typedef struct {
    Pickle *pickle;
    const uint8_t *data;
    size_t size;
    size_t at;
    PickleValue **stack;
    size_t height;
    size_t stack_capacity;
    size_t *marks;
    size_t mark_count;
    size_t mark_capacity;
    PickleValue **memo;
    size_t memo_count;
    size_t memo_capacity;
    size_t memo_used; /* places filled in order, for MEMOIZE */
} Machine;

__attribute__((format(printf, 2, 3))) static Err *bad(const Machine *m, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char text[256];
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_new(EXIT_BAD_DATA, "pickle, byte %zu: %s", m->at, text);
}

/* ---- Reading ---- */

static Err *take(Machine *m, size_t count, const uint8_t **out)
{
    if (count > m->size - m->at) {
        return bad(m, "it ends in the middle of a value of %zu bytes", count);
    }
    *out = m->data + m->at;
    m->at += count;
    return NULL;
}

/* Little-endian unsigned number of `count` <= 8 bytes. */
static Err *take_number(Machine *m, size_t count, uint64_t *out)
{
    const uint8_t *bytes = NULL;
    TRY(take(m, count, &bytes));
    *out = 0;
    for (size_t i = 0; i < count; i++) {
        *out |= (uint64_t)bytes[i] << (8 * i);
    }
    return NULL;
}

static Err *take_line(Machine *m, const char **text, size_t *length)
{
    const uint8_t *begin = m->data + m->at;
    const uint8_t *end = memchr(begin, '\n', m->size - m->at);
    if (end == NULL) {
        return bad(m, "it ends in the middle of a line");
    }
    *text = (const char *)begin;
    *length = (size_t)(end - begin);
    m->at += *length + 1;
    return NULL;
}

/* ---- Stack and memo ---- */

static Err *new_value(Machine *m, PickleKind kind, PickleValue **out)
{
    Pickle *pickle = m->pickle;
    if (pickle->value_count == VALUES_MAX) {
        return bad(m, "more than %d values", VALUES_MAX);
    }
    const size_t index = pickle->value_count % BLOCK_VALUES;
    if (index == 0) {
        pickle->blocks = xgrow(pickle->blocks, &pickle->block_capacity, pickle->block_count + 1,
                               sizeof(PickleValue *));
        pickle->blocks[pickle->block_count++] = xcalloc(BLOCK_VALUES, sizeof(PickleValue));
    }
    pickle->value_count++;
    *out = &pickle->blocks[pickle->block_count - 1][index];
    (*out)->kind = kind;
    return NULL;
}

static Err *push(Machine *m, PickleValue *value)
{
    if (m->height == STACK_MAX) {
        return bad(m, "more than %d values on the stack", STACK_MAX);
    }
    m->stack = xgrow(m->stack, &m->stack_capacity, m->height + 1, sizeof(PickleValue *));
    m->stack[m->height++] = value;
    return NULL;
}

static Err *push_new(Machine *m, PickleKind kind, PickleValue **out)
{
    TRY(new_value(m, kind, out));
    return push(m, *out);
}

static size_t floor_of(const Machine *m)
{
    return m->mark_count > 0 ? m->marks[m->mark_count - 1] : 0;
}

static Err *pop(Machine *m, PickleValue **out)
{
    if (m->height <= floor_of(m)) {
        return bad(m, "a value is taken from an empty stack");
    }
    *out = m->stack[--m->height];
    return NULL;
}

static Err *top(Machine *m, PickleValue **out)
{
    if (m->height <= floor_of(m)) {
        return bad(m, "the stack is empty");
    }
    *out = m->stack[m->height - 1];
    return NULL;
}

static Err *push_mark(Machine *m)
{
    if (m->mark_count == STACK_MAX) {
        return bad(m, "more than %d marks", STACK_MAX);
    }
    m->marks = xgrow(m->marks, &m->mark_capacity, m->mark_count + 1, sizeof *m->marks);
    m->marks[m->mark_count++] = m->height;
    return NULL;
}

/* Values above the innermost mark, which is removed; they stay valid until the next push. */
static Err *pop_mark(Machine *m, PickleValue ***items, size_t *count)
{
    if (m->mark_count == 0) {
        return bad(m, "no mark is set");
    }
    const size_t base = m->marks[--m->mark_count];
    *items = m->height > 0 ? m->stack + base : NULL;
    *count = m->height - base;
    m->height = base;
    return NULL;
}

static Err *memo_put(Machine *m, uint64_t place)
{
    if (place >= MEMO_MAX) {
        return bad(m, "memo place %llu is above the limit", (unsigned long long)place);
    }
    PickleValue *value = NULL;
    TRY(top(m, &value));
    const size_t need = (size_t)place + 1;
    m->memo = xgrow(m->memo, &m->memo_capacity, need, sizeof(PickleValue *));
    while (m->memo_count < need) {
        m->memo[m->memo_count++] = NULL;
    }
    m->memo[place] = value;
    m->memo_used++;
    return NULL;
}

static Err *memo_get(Machine *m, uint64_t place)
{
    if (place >= m->memo_count || m->memo[place] == NULL) {
        return bad(m, "memo place %llu is empty", (unsigned long long)place);
    }
    return push(m, m->memo[place]);
}

static void append_item(PickleValue *list, PickleValue *item)
{
    list->items = xgrow(list->items, &list->capacity, list->count + 1, sizeof(PickleValue *));
    list->items[list->count++] = item;
}

/* ---- Op-codes by family; each family says in *known whether the op-code was its own ---- */

static Err *push_int(Machine *m, PickleKind kind, int64_t integer)
{
    PickleValue *value = NULL;
    TRY(push_new(m, kind, &value));
    value->integer = integer;
    return NULL;
}

/* Two's complement, little-endian, of `count` bytes. */
static Err *push_long(Machine *m, uint64_t count)
{
    const uint8_t *bytes = NULL;
    TRY(take(m, (size_t)count, &bytes));
    if (count > 8) {
        PickleValue *value = NULL;
        TRY(push_new(m, PICKLE_BIG_INT, &value));
        value->text = (const char *)bytes;
        value->length = (size_t)count;
        return NULL;
    }
    uint64_t bits = count > 0 && (bytes[count - 1] & 0x80u) != 0 ? ~0ull : 0;
    for (size_t i = (size_t)count; i > 0; i--) {
        bits = (bits << 8) | bytes[i - 1];
    }
    return push_int(m, PICKLE_INT, (int64_t)bits);
}

static Err *push_float(Machine *m)
{
    const uint8_t *bytes = NULL;
    TRY(take(m, 8, &bytes));
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) {
        bits = (bits << 8) | bytes[i];
    }
    PickleValue *value = NULL;
    TRY(push_new(m, PICKLE_FLOAT, &value));
    memcpy(&value->real, &bits, sizeof bits);
    return NULL;
}

static Err *run_number(Machine *m, uint8_t op, bool *known)
{
    uint64_t number = 0;
    switch (op) {
    case 'N':
        return push_int(m, PICKLE_NONE, 0);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push_int(m, PICKLE_BOOL, op == 0x88);
    case 'J': /* BININT: signed */
        TRY(take_number(m, 4, &number));
        return push_int(m, PICKLE_INT, (int32_t)(uint32_t)number);
    case 'K': /* BININT1 */
        TRY(take_number(m, 1, &number));
        return push_int(m, PICKLE_INT, (int64_t)number);
    case 'M': /* BININT2 */
        TRY(take_number(m, 2, &number));
        return push_int(m, PICKLE_INT, (int64_t)number);
    case 0x8a: /* LONG1 */
        TRY(take_number(m, 1, &number));
        return push_long(m, number);
    case 0x8b: /* LONG4 */
        TRY(take_number(m, 4, &number));
        return push_long(m, number);
    case 'G': /* BINFLOAT */
        return push_float(m);
    default:
        *known = false;
        return NULL;
    }
}

static Err *push_text(Machine *m, PickleKind kind, size_t length_bytes)
{
    uint64_t length = 0;
    const uint8_t *bytes = NULL;
    TRY(take_number(m, length_bytes, &length));
    TRY(take(m, (size_t)length, &bytes));
    PickleValue *value = NULL;
    TRY(push_new(m, kind, &value));
    value->text = (const char *)bytes;
    value->length = (size_t)length;
    return NULL;
}

static Err *run_text(Machine *m, uint8_t op, bool *known)
{
    switch (op) {
    case 'X': /* BINUNICODE */
        return push_text(m, PICKLE_TEXT, 4);
    case 0x8c: /* SHORT_BINUNICODE */
        return push_text(m, PICKLE_TEXT, 1);
    case 0x8d: /* BINUNICODE8 */
        return push_text(m, PICKLE_TEXT, 8);
    case 'U': /* SHORT_BINSTRING: text of Python 2 */
        return push_text(m, PICKLE_TEXT, 1);
    case 'T': /* BINSTRING */
        return push_text(m, PICKLE_TEXT, 4);
    case 'C': /* SHORT_BINBYTES */
        return push_text(m, PICKLE_BYTES, 1);
    case 'B': /* BINBYTES */
        return push_text(m, PICKLE_BYTES, 4);
    case 0x8e: /* BINBYTES8 */
    case 0x96: /* BYTEARRAY8 */
        return push_text(m, PICKLE_BYTES, 8);
    default:
        *known = false;
        return NULL;
    }
}

static Err *push_copy(Machine *m, PickleKind kind, PickleValue *const *items, size_t count)
{
    /* The items lie on the stack, where the push will write: copy first. */
    PickleValue *value = NULL;
    TRY(new_value(m, kind, &value));
    for (size_t i = 0; i < count; i++) {
        append_item(value, items[i]);
    }
    return push(m, value);
}

static Err *push_marked(Machine *m, PickleKind kind)
{
    PickleValue **items = NULL;
    size_t count = 0;
    TRY(pop_mark(m, &items, &count));
    if (kind == PICKLE_DICT && count % 2 != 0) {
        return bad(m, "a key has no value");
    }
    return push_copy(m, kind, items, count);
}

static Err *push_tuple(Machine *m, size_t count)
{
    if (m->height - floor_of(m) < count) {
        return bad(m, "a tuple of %zu values is made from fewer", count);
    }
    m->height -= count;
    return push_copy(m, PICKLE_TUPLE, m->height + count > 0 ? m->stack + m->height : NULL, count);
}

/* APPENDS, SETITEMS, ADDITEMS: what is above the mark goes into the container below it. */
static Err *extend(Machine *m, bool pairs)
{
    PickleValue **items = NULL;
    size_t count = 0;
    TRY(pop_mark(m, &items, &count));
    PickleValue *container = NULL;
    TRY(top(m, &container));
    if (pairs && count % 2 != 0) {
        return bad(m, "a key has no value");
    }
    for (size_t i = 0; i < count; i++) {
        append_item(container, items[i]);
    }
    return NULL;
}

/* APPEND, SETITEM: the topmost value, or a key and the value above it. */
static Err *extend_one(Machine *m, bool pair)
{
    PickleValue *value = NULL;
    PickleValue *key = NULL;
    TRY(pop(m, &value));
    if (pair) {
        TRY(pop(m, &key));
    }
    PickleValue *container = NULL;
    TRY(top(m, &container));
    if (pair) {
        append_item(container, key);
    }
    append_item(container, value);
    return NULL;
}

static Err *run_container(Machine *m, uint8_t op, bool *known)
{
    switch (op) {
    case '}':
        return push_copy(m, PICKLE_DICT, NULL, 0);
    case ']':
        return push_copy(m, PICKLE_LIST, NULL, 0);
    case ')':
        return push_copy(m, PICKLE_TUPLE, NULL, 0);
    case 0x8f: /* EMPTY_SET */
        return push_copy(m, PICKLE_SET, NULL, 0);
    case 't':
        return push_marked(m, PICKLE_TUPLE);
    case 'l':
        return push_marked(m, PICKLE_LIST);
    case 'd':
        return push_marked(m, PICKLE_DICT);
    case 0x91: /* FROZENSET */
        return push_marked(m, PICKLE_SET);
    case 0x85: /* TUPLE1 */
    case 0x86: /* TUPLE2 */
    case 0x87: /* TUPLE3 */
        return push_tuple(m, (size_t)(op - 0x84));
    case 'a': /* APPEND */
        return extend_one(m, false);
    case 's': /* SETITEM */
        return extend_one(m, true);
    case 'e':  /* APPENDS */
    case 0x90: /* ADDITEMS */
        return extend(m, false);
    case 'u': /* SETITEMS */
        return extend(m, true);
    default:
        *known = false;
        return NULL;
    }
}

static Err *push_global(Machine *m)
{
    const char *module = NULL;
    const char *name = NULL;
    size_t module_length = 0;
    size_t name_length = 0;
    TRY(take_line(m, &module, &module_length));
    TRY(take_line(m, &name, &name_length));
    PickleValue *value = NULL;
    TRY(push_new(m, PICKLE_GLOBAL, &value));
    value->text = module;
    value->length = module_length;
    value->name = name;
    value->name_length = name_length;
    return NULL;
}

static Err *push_stack_global(Machine *m)
{
    PickleValue *name = NULL;
    PickleValue *module = NULL;
    TRY(pop(m, &name));
    TRY(pop(m, &module));
    if (name->kind != PICKLE_TEXT || module->kind != PICKLE_TEXT) {
        return bad(m, "the names of a global are not texts");
    }
    PickleValue *value = NULL;
    TRY(push_new(m, PICKLE_GLOBAL, &value));
    value->text = module->text;
    value->length = module->length;
    value->name = name->text;
    value->name_length = name->length;
    return NULL;
}

/* REDUCE, NEWOBJ, NEWOBJ_EX: a call that never happens. */
static Err *push_call(Machine *m, bool with_keywords)
{
    PickleValue *ignored = NULL;
    PickleValue *args = NULL;
    PickleValue *callable = NULL;
    if (with_keywords) {
        TRY(pop(m, &ignored));
    }
    TRY(pop(m, &args));
    TRY(pop(m, &callable));
    PickleValue *value = NULL;
    TRY(push_new(m, PICKLE_CALL, &value));
    value->callable = callable;
    value->args = args;
    return NULL;
}

static Err *run_object(Machine *m, uint8_t op, bool *known)
{
    PickleValue *value = NULL;
    PickleValue *id = NULL;
    switch (op) {
    case 'c':
        return push_global(m);
    case 0x93:
        return push_stack_global(m);
    case 'R':  /* REDUCE */
    case 0x81: /* NEWOBJ */
        return push_call(m, false);
    case 0x92: /* NEWOBJ_EX */
        return push_call(m, true);
    case 'b': /* BUILD: the attributes of an object, which nobody asks for */
        TRY(pop(m, &value));
        return top(m, &value);
    case 'Q': /* BINPERSID */
        TRY(pop(m, &id));
        TRY(push_new(m, PICKLE_PERSISTENT, &value));
        value->args = id;
        return NULL;
    default:
        *known = false;
        return NULL;
    }
}

static Err *run_memo(Machine *m, uint8_t op, bool *known)
{
    uint64_t place = 0;
    PickleValue *value = NULL;
    PickleValue **items = NULL;
    size_t count = 0;
    switch (op) {
    case 'q': /* BINPUT */
    case 'r': /* LONG_BINPUT */
        TRY(take_number(m, op == 'q' ? 1 : 4, &place));
        return memo_put(m, place);
    case 0x94: /* MEMOIZE */
        return memo_put(m, m->memo_used);
    case 'h': /* BINGET */
    case 'j': /* LONG_BINGET */
        TRY(take_number(m, op == 'h' ? 1 : 4, &place));
        return memo_get(m, place);
    case '(':
        return push_mark(m);
    case '0': /* POP */
        return pop(m, &value);
    case '1': /* POP_MARK */
        return pop_mark(m, &items, &count);
    case '2': /* DUP */
        TRY(top(m, &value));
        return push(m, value);
    case 0x95: /* FRAME: its length only helps readers of streams */
        return take_number(m, 8, &place);
    default:
        *known = false;
        return NULL;
    }
}

static Err *run_one(Machine *m, uint8_t op)
{
    static Err *(*const families[])(Machine *, uint8_t, bool *) = {run_memo, run_number, run_text,
                                                                   run_container, run_object};
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        bool known = true;
        Err *err = families[i](m, op, &known);
        if (err != NULL || known) {
            return err;
        }
    }
    m->at--;
    return bad(m, "op-code 0x%02x has no place in weights; save a plain state_dict()", op);
}

static Err *run(Machine *m)
{
    uint64_t protocol = 0;
    if (m->size < 2 || m->data[0] != 0x80) {
        return bad(m, "it does not begin with a protocol number");
    }
    m->at = 1;
    TRY(take_number(m, 1, &protocol));
    if (protocol < 2 || protocol > PROTOCOL_MAX) {
        return bad(m, "protocol %d is not one of 2 to %d", (int)protocol, PROTOCOL_MAX);
    }
    for (;;) {
        const uint8_t *op = NULL;
        TRY(take(m, 1, &op));
        if (*op == '.') {
            break;
        }
        TRY(run_one(m, *op));
    }
    if (m->mark_count != 0 || m->height != 1) {
        return bad(m, "%zu values are left at its end", m->height);
    }
    m->pickle->root = m->stack[0];
    return NULL;
}

static Err *read_at_most(const uint8_t *data, size_t size, size_t *used, Pickle **out)
{
    *out = NULL;
    Pickle *pickle = xcalloc(1, sizeof *pickle);
    Machine machine = {.pickle = pickle, .data = data, .size = size};
    Err *err = run(&machine);
    *used = machine.at;
    free(machine.stack);
    free(machine.marks);
    free(machine.memo);
    if (err != NULL) {
        pickle_free(pickle);
        return err;
    }
    *out = pickle;
    return NULL;
}

Err *pickle_read(const uint8_t *data, size_t size, Pickle **out)
{
    *out = NULL;
    if (size > PICKLE_MAX_BYTES) {
        return err_new(EXIT_BAD_DATA,
                       "pickle of %zu bytes, %d are allowed; save a plain state_dict()", size,
                       PICKLE_MAX_BYTES);
    }
    size_t used = 0;
    return read_at_most(data, size, &used, out);
}

Err *pickle_read_first(const uint8_t *data, size_t size, size_t *used, Pickle **out)
{
    return read_at_most(data, size < PICKLE_MAX_BYTES ? size : PICKLE_MAX_BYTES, used, out);
}

const PickleValue *pickle_root(const Pickle *pickle)
{
    return pickle->root;
}

size_t pickle_value_count(const Pickle *pickle)
{
    return pickle->value_count;
}

const PickleValue *pickle_value(const Pickle *pickle, size_t i)
{
    CHECK(i < pickle->value_count, "value %zu of %zu", i, pickle->value_count);
    return &pickle->blocks[i / BLOCK_VALUES][i % BLOCK_VALUES];
}

void pickle_free(Pickle *pickle)
{
    if (pickle == NULL) {
        return;
    }
    for (size_t i = 0; i < pickle->value_count; i++) {
        free(pickle->blocks[i / BLOCK_VALUES][i % BLOCK_VALUES].items);
    }
    for (size_t i = 0; i < pickle->block_count; i++) {
        free(pickle->blocks[i]);
    }
    free(pickle->blocks);
    free(pickle);
}

static bool text_equal(const char *text, size_t length, const char *other)
{
    return strlen(other) == length && memcmp(text, other, length) == 0;
}

bool pickle_text_is(const PickleValue *value, const char *text)
{
    return value->kind == PICKLE_TEXT && text_equal(value->text, value->length, text);
}

bool pickle_global_is(const PickleValue *value, const char *module, const char *name)
{
    return value->kind == PICKLE_GLOBAL && text_equal(value->text, value->length, module) &&
           text_equal(value->name, value->name_length, name);
}
