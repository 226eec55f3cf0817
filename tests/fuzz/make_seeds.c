/* make_seeds FOLDER: writes the seeds of every target as FOLDER/TARGET/seed-NNN, small inputs that reach the interesting
 * places. Their form is that of fuzz_TARGET.c. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    const char *folder;
    const char *target;
    int number;
} Seeds;

static void save(Seeds *seeds, const void *data, size_t size)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", seeds->folder, seeds->target);
    (void)mkdir(path, 0777);
    (void)snprintf(path, sizeof path, "%s/%s/seed-%03d", seeds->folder, seeds->target,
                   seeds->number++);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        exit(EXIT_CANT_CREATE);
    }
}

static void save_text(Seeds *seeds, const char *text)
{
    save(seeds, text, strlen(text));
}

#define SAVE(seeds, literal) save(seeds, literal, sizeof(literal) - 1)

/* ---- Configuration ---- */

static void config_seeds(const char *folder)
{
    Seeds s = {folder, "config", 0};
    static const char whole[] =
        "# a comment\n[run]\nname = a b\nout = ./x/${HOME}/y\non = off\nseed = 4294967295\nany = "
        "-7\n\n"
        "[data]\nkind = bc\nrate = 1e-3\nfree = -2.5\nsteps = 1, 2,3\nmean = 0.1, 1e1\n";
    save_text(&s, whole);
    save_text(&s, "include = other.ini\n[run]\nname = x\n\n%%\n[run]\nname = y\nseed = 2\n");
    save_text(&s, "include = other.ini\n\n%%\ninclude = input.ini\n");
    save_text(&s, "include = ${NONE}\ninclude = ~/x\n");
    save_text(&s, "[run]\nnam = x\n[rum]\n[data\n[data] x\nkind=d\nrate=2\nsteps=1,,2\n");
    save_text(&s, "[run]\r\nname = 1 ; no\r\n seed = 1\r\non = maybe\r\nany = 0x1\r\n");
    save_text(&s, "\xEF\xBB\xBF[data]\nfree = 1/2\nrate = nan\nsteps = 101\nkind = \"a\"\n");
    save_text(&s, "[run]\nname = 1\nname = 2\nout = a ;b\nseed = 99999999999999999999\n= 3\nx\n");
    save_text(&s, "[data]\nmean = 0.1 # why\nfree = 1e999\nmean = \nrate = 1,5\nlr = 1\n");
    char *line = xformat("[run]\nname = %0*d\nout = %0*d\n", 195, 1, 150, 2);
    save_text(&s, line);
    free(line);
    /* The whole table: a length of 127 modulo 128. */
    char real[4 * 128];
    static const char settings[] =
        "[student]\nmodel = resnet20\n[teacher]\nmodel = resnet56\nweights = t.pth\n[distill]\n"
        "method = energy_kd\n[schedule]\nkind = step\nepochs = 240\nmilestones = 150, 180, 210\n"
        "[optim]\nlr = 0.05\nloss_scale = dynamic\n[train]\ntime_limit = 1h30m\nbatch = 64\n";
    memset(real, '\n', sizeof real);
    memcpy(real, settings, sizeof settings - 1);
    save(&s, real, sizeof real - 1);

    Seeds set = {folder, "set", 0};
    save_text(&set, "run.name=a b\nrun.out=x/${HOME}\nrun.on=yes\nrun.seed=3\nrun.any=");
    save_text(&set, "data.kind=def\ndata.rate=.5\ndata.free=-1e5\ndata.steps=1,2\ndata.mean=");
    save_text(&set, "run.seed=1\nrun.seed=2\nrum.x=1\nrun.x=1\nrun\n.=\nrun.name= ;\ndata.kind=z");
    static const char *const whole_table[] = {
        "train.batch=0\noptim.lr=1", "distill.method=kd\ntrain.time_limit=1h",
        "schedule.kind=step\nschedule.milestones=3,2\noptim.loss_scale=x\nschedule.epochs=1",
        "data.kind=cifar10\ndata.root=x\nstudent.model=vgg8\nrun.out=a"};
    for (size_t i = 0; i < sizeof whole_table / sizeof whole_table[0]; i++) {
        char *padded = xformat("%-127s", whole_table[i]);
        save_text(&set, padded);
        free(padded);
    }
}

/* ---- Weights ---- */

static void safetensors_seeds(const char *folder)
{
    Seeds s = {folder, "safetensors", 0};
    SAVE(&s, "\1{\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]}}  \0"
             "abcdefgh");
    SAVE(&s, "\1{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"},\"module.a\":{\"dtype\":\"I64\","
             "\"shape\":[],\"data_offsets\":[0,8]},\"module.b\":{\"dtype\":\"BOOL\",\"shape\":[3],"
             "\"data_offsets\":[8,11]},\"module.c\":{\"dtype\":\"BF16\",\"shape\":[0,5],"
             "\"data_offsets\":[11,11]}}\0"
             "abcdefghijk");
    SAVE(&s, "\1{\"student.a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]},"
             "\"teacher.a\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[2,10]}}\0"
             "abcdefghij");
    SAVE(&s, "\1{\"a\":{\"dtype\":\"U8\",\"shape\":[18446744073709551616],\"data_offsets\":[0,1]}}"
             "\0a");
    SAVE(&s, "\1{\"a\":{\"dtype\":\"U16\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,"
             "-1]},\"a\":{}}");
    SAVE(&s, "\1{\"a\":{\"dtype\":\"I8\",\"shape\":[1.5],\"data_offsets\":[0,1,2]}} x");
    SAVE(&s, "\1{\"a\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[1,3]},\"b\":{\"dtype\":"
             "\"U32\",\"shape\":[1],\"data_offsets\":[0,4]},\"c\":{\"dtype\":\"F8_E4M3\",\"shape\":"
             "[1],\"data_offsets\":[4,5]}}\0abcde");
    SAVE(&s, "\1{\"a\":7,\"__metadata__\":[]}");
    SAVE(&s, "\1{\"__metadata__\":{\"a\":1},\"b\":{\"dtype\":\"I32\",\"shape\":[1],"
             "\"data_offsets\":[0,4]},\"c\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[4,"
             "12]}}\0abcdefghijkl");
    SAVE(&s, "\0\2\0\0\0\0\0\0\0{}");
    SAVE(&s, "\0\xff\xff\xff\xff\xff\xff\xff\xff{}");
}

static void npy_seeds(const char *folder)
{
    Seeds s = {folder, "npy", 0};
    SAVE(&s, "\1\1{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }          \n\0"
             "abcdefgh");
    SAVE(&s, "\1\2{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n\0abcdefgh");
    SAVE(&s, "\1\3{\"shape\": (3,), 'fortran_order': False, 'descr': '|b1'}\n\0abc");
    SAVE(&s, "\1\1{'descr': '<f2', 'fortran_order': True, 'shape': (2, 1), }\n\0abcd");
    SAVE(&s, "\1\1{'descr': '>f8', 'fortran_order': False, 'shape': (1,), }\n\0abcdefgh");
    SAVE(&s, "\1\1{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (0, 7), }\n");
    SAVE(&s, "\1\1{'descr': '|O', 'fortran_order': False, 'shape': (1L, -1), }\n");
    SAVE(&s, "\1\1{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, "
             "4294967296), }\n");
    SAVE(&s, "\1\1{'descr': '|i1', 'fortran_order': False, 'shape': (1, 2), 'x': 'y', }\n\0ab");
    SAVE(&s, "\0\x93NUMPY\1\0\xff\xff{'descr': '<u4'");
    SAVE(&s, "\0\x93NUMPY\2\0\xff\xff\xff\xff{}");
}

/* ---- Pickles ---- */

static void op(FuzzBytes *out, const char *text)
{
    fuzz_put(out, text, strlen(text));
}

static void text_op(FuzzBytes *out, const char *text)
{
    op(out, "X");
    fuzz_put_number(out, strlen(text), 4);
    op(out, text);
}

static void int_op(FuzzBytes *out, unsigned value)
{
    op(out, "M");
    fuzz_put_number(out, value, 2);
}

/* A call of `function` with a tensor of rows x columns over storage `key`. */
static void tensor_op(FuzzBytes *out, const char *name, const char *function, const char *storage,
                      const char *key, unsigned rows, unsigned columns, bool transposed)
{
    text_op(out, name);
    op(out, "ctorch._utils\n");
    op(out, function);
    op(out, "\n((");
    text_op(out, "storage");
    op(out, "ctorch\n");
    op(out, storage);
    op(out, "\n");
    text_op(out, key);
    text_op(out, "cpu");
    int_op(out, rows * columns);
    op(out, "tQK");
    fuzz_put_number(out, 0, 1);
    int_op(out, rows);
    int_op(out, columns);
    op(out, "\x86");
    int_op(out, transposed ? 1 : columns);
    int_op(out, transposed ? rows : 1);
    op(out, "\x86\x89"
            "ccollections\nOrderedDict\n)RtR");
}

static FuzzBytes state_dict(const char *wrapper)
{
    FuzzBytes out = {0};
    op(&out, "\x80\x02");
    if (wrapper != NULL) {
        op(&out, "}(");
        text_op(&out, wrapper);
    }
    op(&out, "ccollections\nOrderedDict\n)R(");
    tensor_op(&out, "conv.weight", "_rebuild_tensor_v2", "FloatStorage", "0", 2, 3, false);
    tensor_op(&out, "fc.weight", "_rebuild_tensor_v2", "FloatStorage", "1", 3, 2, true);
    op(&out, "u");
    if (wrapper != NULL) {
        text_op(&out, "epoch");
        op(&out, "K\x07u");
    }
    op(&out, ".");
    return out;
}

static void single_tensor(FuzzBytes *out, const char *function, const char *storage)
{
    op(out, "\x80\x02}");
    tensor_op(out, "a", function, storage, "0", 1, 4, false);
    op(out, "s.");
}

/* A tensor whose offset, sizes and strides are the op-codes given. */
static void odd_tensor(FuzzBytes *out, const char *function, const char *offset, const char *sizes,
                       const char *strides, const char *storage_view)
{
    text_op(out, "odd");
    op(out, "ctorch._utils\n");
    op(out, function);
    op(out, "\n((");
    text_op(out, "storage");
    op(out, strcmp(function, "_rebuild_tensor_v3") == 0 ? "ctorch.storage\nUntypedStorage\n"
                                                        : "ctorch\nFloatStorage\n");
    text_op(out, "0");
    text_op(out, "cpu");
    op(out, "K\x18");
    op(out, storage_view);
    op(out, "tQ");
    op(out, offset);
    op(out, sizes);
    op(out, strides);
    op(out, "\x89N");
    op(out, strcmp(function, "_rebuild_tensor_v3") == 0 ? "ctorch\nuint32\n" : "N");
    op(out, "tR");
}

static FuzzBytes odd_dict(int which)
{
    static const char *const offsets[] = {"K\x02", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"};
    static const char zero[] = "ctorch\nSize\n(K\x02K\x01t\x85R";
    static const char huge[] = "(\x8a\x05\x01\x01\x01\x01\x01\x8a\x05\x01\x01\x01\x01\x01t";
    static const struct {
        const char *function, *sizes, *strides, *view;
        int offset;
    } odd[] = {{"_rebuild_tensor_v2", zero, "(K\x03K\x01t", "N", 0},
               {"_rebuild_tensor_v2", huge, "(K\x01K\x01t", "", 0},
               {"_rebuild_tensor_v2", "(K\x09K\x09t", "(K\x01K\x01t", "", 0},
               {"_rebuild_tensor_v2", zero, "(K\x01t", "", 0},
               {"_rebuild_tensor_v2", "(K\x01K\x02t", "(K\x09K\x01t", "(Nq\x01K\x02K\x08t", 0},
               {"_rebuild_tensor_v2", "(K\x01K\x02t", "(K\x09K\x01t", "(Nq\x01K\x02K\x08t", 1},
               {"_rebuild_tensor_v3", "(K\x01K\x02t", "(K\x01K\x01t", "", 0},
               {"_rebuild_qtensor", "(K\x01K\x02t", "(K\x01K\x01t", "", 0},
               {"_rebuild_tensor_v2", "(K\x02K\x02t", huge, "", 0}};
    enum { ODD = sizeof odd / sizeof odd[0] };
    const int i = which % ODD;
    FuzzBytes out = {0};
    op(&out, "\x80\x02}");
    odd_tensor(&out, odd[i].function, offsets[odd[i].offset], odd[i].sizes, odd[i].strides,
               odd[i].view);
    op(&out, which < ODD ? "s." : "sX\1");
    if (which >= ODD) { /* the same name again */
        out.size -= 3;
        op(&out, "s");
        odd_tensor(&out, odd[i].function, offsets[0], odd[0].sizes, odd[0].strides, "");
        op(&out, "s.");
    }
    return out;
}

/* An OrderedDict of Python 2: its content is an argument; and a parameter around a tensor. */
static FuzzBytes listed_dict(void)
{
    FuzzBytes out = {0};
    op(&out, "\x80\x02"
             "ccollections\nOrderedDict\n](](");
    tensor_op(&out, "a\xe9", "_rebuild_tensor", "FloatStorage", "0", 1, 2, false);
    op(&out, "e](");
    text_op(&out, "p");
    op(&out, "ctorch._utils\n_rebuild_parameter\n(");
    FuzzBytes inner = {0};
    tensor_op(&inner, "", "_rebuild_tensor_v2", "FloatStorage", "1", 1, 2, false);
    fuzz_put(&out, inner.data + 5, inner.size - 5); /* without its name */
    fuzz_bytes_free(&inner);
    op(&out, "\x89NtRe](NeNe\x85R.");
    return out;
}

/* The same pickles for three targets: alone, in a zip archive, in the older form. */
static void pickle_everywhere(Seeds targets[3], const FuzzBytes *pickle)
{
    save(&targets[0], pickle->data, pickle->size);
    for (int i = 1; i < 3; i++) {
        FuzzBytes input = {0};
        fuzz_put_number(&input, i == 1 ? 1 : 2, 1);
        fuzz_put(&input, pickle->data, pickle->size);
        save(&targets[i], input.data, input.size);
        fuzz_bytes_free(&input);
    }
}

static void pickle_seeds(const char *folder)
{
    Seeds targets[] = {{folder, "pickle", 0}, {folder, "pth", 0}, {folder, "pth_old", 0}};
    static const char *const wrappers[] = {NULL,  "model",   "state_dict",
                                           "net", "student", "state_dict_ema"};
    for (size_t i = 0; i < sizeof wrappers / sizeof wrappers[0]; i++) {
        FuzzBytes pickle = state_dict(wrappers[i]);
        pickle_everywhere(targets, &pickle);
        fuzz_bytes_free(&pickle);
    }
    static const char *const storages[] = {"HalfStorage",  "BFloat16Storage",    "DoubleStorage",
                                           "LongStorage",  "IntStorage",         "ShortStorage",
                                           "CharStorage",  "ByteStorage",        "BoolStorage",
                                           "QInt8Storage", "ComplexFloatStorage"};
    for (size_t i = 0; i < sizeof storages / sizeof storages[0]; i++) {
        FuzzBytes pickle = {0};
        single_tensor(&pickle, i % 2 == 0 ? "_rebuild_tensor_v2" : "_rebuild_tensor", storages[i]);
        pickle_everywhere(targets, &pickle);
        fuzz_bytes_free(&pickle);
    }
    for (int i = 0; i < 11; i++) {
        FuzzBytes pickle = i == 10 ? listed_dict() : odd_dict(i);
        pickle_everywhere(targets, &pickle);
        fuzz_bytes_free(&pickle);
    }
    Seeds *s = &targets[0];
    SAVE(s, "\x80\x04\x95\x10\0\0\0\0\0\0\0(K\x07J\xfe\xff\xff\xff\x8a\x02\xff\xff\x8a\0\x8a\x09"
            "123456789G\x3f\xf8\0\0\0\0\0\0N\x88\x89\x8c\x02hi\x94t.");
    SAVE(s, "\x80\x05]q\0h\0ah\0h\0\x85\x86\x87(NNe\x8f(N\x90(N\x91(Nl(NNdU\1aT\1\0\0\0aC\1aB\1\0\0"
            "\0a\x8e\1\0\0\0\0\0\0\0a\x96\1\0\0\0\0\0\0\0a\x8d\1\0\0\0\0\0\0\0a0(1120j\0\0\0\0r\1\0"
            "\0\0.");
    SAVE(s, "\x80\x02\x8c\1a\x8c\1b\x93)\x81}b)}\x92}\x8c\1aNs(NNu\x8b\1\0\0\0a.");
    SAVE(s, "\x80\x02(i.");
}

static void pth_seeds(const char *folder)
{
    Seeds s = {folder, "pth", 100};
    FuzzBytes pickle = state_dict(NULL);
    FuzzBytes out = {0};
    /* Entries: data.pkl, storages 0 and 1, byteorder. */
    static const struct {
        uint8_t name;
        const char *content;
    } rest[] = {{1, "abcdefghijklmnopqrstuvwx"}, {2, "ABCDEFGHIJKLMNOPQRSTUVWX"}, {3, "little"}};
    fuzz_put_number(&out, 2, 1);
    fuzz_put_number(&out, 0, 1);
    fuzz_put_number(&out, pickle.size, 2);
    fuzz_put(&out, pickle.data, pickle.size);
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) {
        fuzz_put_number(&out, rest[i].name, 1);
        fuzz_put_number(&out, strlen(rest[i].content), 2);
        op(&out, rest[i].content);
    }
    save(&s, out.data, out.size);
    fuzz_bytes_free(&out);
    fuzz_bytes_free(&pickle);
    /* One byte of the archive changed, at many places. */
    pickle = state_dict(NULL);
    for (unsigned at = 0; at < 700; at += 7) {
        fuzz_put_number(&out, 3, 1);
        fuzz_put_number(&out, at, 2);
        fuzz_put_number(&out, at, 1);
        fuzz_put(&out, pickle.data, pickle.size);
        save(&s, out.data, out.size);
        fuzz_bytes_free(&out);
    }
    fuzz_bytes_free(&pickle);
    char tar[600] = {0};
    memcpy(tar + 1 + 257, "ustar", 5);
    save(&s, tar, sizeof tar);
    SAVE(&s, "\2\3\3\0big\0\1\0.\7\1\0x");
    SAVE(&s, "\0PK\3\4\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0a");
    SAVE(&s, "\0\x80\2.");

    Seeds old = {folder, "pth_old", 100};
    SAVE(&old, "\0\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.");
    SAVE(&old, "\1\x80\x02}.\x80\x02].");
    SAVE(&old, "\1\x80\x02}X\1\0\0\0aNs.\x80\x02](X\1\0\0\0"
               "0e.\1\0\0\0\0\0\0\0abcd");
}

/* ---- Checkpoints, data, events ---- */

static void manifest_seeds(const char *folder)
{
    Seeds s = {folder, "manifest", 0};
    static const char empty[] = "99aa06d3014798d86001c324468d497f 0 a\n";
    char *text = xformat("\1%s", empty);
    save_text(&s, text);
    free(text);
    SAVE(&s, "\1"
             "99aa06d3014798d86001c324468d497f 7 m\n");
    SAVE(&s, "\1"
             "99aa06d3014798d86001c324468d497f -1 ../a\n");
    SAVE(&s, "\1"
             "99aa06d3014798d86001c324468d497f 99999999999999999999 b\n");
    SAVE(&s, "\1"
             "99aa06d3014798d86001c324468d497f 0 .\nx");
    SAVE(&s, "\3cudistill-checkpoint 2\n");
    SAVE(&s, "\0cudistill-checkpoint 1\nmanifest 99aa06d3014798d86001c324468d497f\n");
}

static void data_seeds(const char *folder)
{
    Seeds s = {folder, "cifar", 0};
    SAVE(&s, "\0");
    SAVE(&s, "\6\1\2\3");
    SAVE(&s, "\7\1\2\3\4\5\6");
    SAVE(&s, "\7\x14\x64\3\4\5\6");
    SAVE(&s, "\6\x0a\2\3");
    SAVE(&s, "\x16\2\1\2");
    SAVE(&s, "\x26\1\0\1\2\3");

    Seeds tar = {folder, "targz", 0};
    SAVE(&tar, "\2\4\1\0a");
    SAVE(&tar, "\3\0\1\0a\2\3\0a\nb");
    SAVE(&tar, "\3\x0a\3\0a\nb\x08\2\0\1\2");
    SAVE(&tar, "\2\x0b\3\0\1\2\3");
    SAVE(&tar, "\3\x16\0\0\2\x04\0a\nb\n\2\1\0c");
    /* The list of class names, and the same twice. */
    FuzzBytes names = {0};
    fuzz_put_number(&names, 3, 1);
    for (int times = 0; times < 2; times++) {
        fuzz_put_number(&names, 2, 1);
        fuzz_put_number(&names, 200, 2);
        for (int i = 0; i < 100; i++) {
            op(&names, "n\n");
        }
        save(&tar, names.data, names.size);
    }
    fuzz_bytes_free(&names);
    static const uint8_t gzip[] = {1, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0,
                                   3, 3,    0,    0, 0, 0, 0, 0, 0, 0};
    save(&tar, gzip, sizeof gzip);
}

static void events_seeds(const char *folder)
{
    Seeds s = {folder, "events", 0};
    SAVE(&s, "\1\x18\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0d"
             "brain.Event:2");
    SAVE(&s, "\1\x14\x09\0\0\0\0\0\0\xf0\x3f\x10\x05\x2a\x08\x0a\x06\x0a\1a\x15\0\0\x80\x3f");
    SAVE(&s, "\1\x13\x10\x05\x2a\x0f\x0a\x0d\x0a\1b\x22\x08\x08\1\x10\2\x18\3\x22\1p"
             "\x02\x08\1");
    SAVE(&s, "\1\x2c\x2a\x2a\x0a\x28\x0a\1c\x2a\x23\x09\0\0\0\0\0\0\0\0\x11\0\0\0\0\0\0\xf0\x3f\x32"
             "\x08\0\0\0\0\0\0\xf0\x3f\x3a\x08\0\0\0\0\0\0\xf0\x3f");
    SAVE(&s, "\1\x04\x3a\2\x08\1\0\x0e\x2a\x0c\x0a\x0a\x4a\x08\x0a\6\x0a\1h\x12\1z");
    SAVE(&s, "\0\1\0\0\0\0\0\0\0");
    /* Records of two bytes and of 2^32 bytes with a right sum of the length. */
    SAVE(&s, "\0\2\0\0\0\0\0\0\0\x78\x27\x0b\x34xx\0\0\0\0");
    SAVE(&s, "\0\0\0\0\0\1\0\0\0\xb2\x8d\xe7\xd2");
    SAVE(&s, "\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0");
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: make_seeds FOLDER\n");
        return EXIT_USAGE_ERR;
    }
    (void)mkdir(argv[1], 0777);
    config_seeds(argv[1]);
    safetensors_seeds(argv[1]);
    npy_seeds(argv[1]);
    pickle_seeds(argv[1]);
    pth_seeds(argv[1]);
    manifest_seeds(argv[1]);
    data_seeds(argv[1]);
    events_seeds(argv[1]);
    return 0;
}
