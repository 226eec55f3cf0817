/* The table of configuration keys: one row each with type, default, limits and help. Checks of one key are in its row;
 * checks that need two keys are in settings_check.c. */
#include "train/settings.h"

#define NONE 0, 0
static const ConfigKey schema[] = {
    {"run", "name", CONFIG_STRING, "run", NONE, NULL, "name of the run, used in tables"},
    {"run", "out", CONFIG_PATH, "", NONE, NULL, "folder of the run; empty: runs/NAME-sSEED"},
    {"run", "seed", CONFIG_INT, "1", 0, 4294967295.0, NULL,
     "seed of initialisation, order and augmentation"},
    {"run", "deterministic", CONFIG_BOOL, "true", NONE, NULL,
     "same bits at the same number of threads"},
    {"run", "project", CONFIG_STRING, "", NONE, NULL,
     "folder of related runs: runs/PROJECT/NAME-sSEED where run.out is empty"},
    {"run", "tags", CONFIG_STRING, "", NONE, NULL, "words for the manifest, with commas"},
    {"run", "notes", CONFIG_STRING, "", NONE, NULL, "a sentence for the manifest and the report"},

    {"data", "kind", CONFIG_ENUM, "synthetic", NONE, "synthetic|cifar10|cifar100|shape",
     "which data set; shape: a size without images, for --dry-run"},
    {"data", "root", CONFIG_PATH, "", NONE, NULL, "folder or .tar.gz of the CIFAR binary version"},
    {"data", "options", CONFIG_STRING, "", NONE, NULL,
     "key=value pairs; synthetic: classes, train, test, seed; shape: size, classes, train, test"},
    {"data", "imbalance", CONFIG_FLOAT, "0", 0, 1e9, NULL,
     "largest class over smallest of a long-tailed training set, as CIFAR-100-LT: 10 .. 200; 0 or "
     "1: the whole set"},
    {"data", "imbalance_seed", CONFIG_INT, "0", 0, 4294967295.0, NULL,
     "which images a long-tailed set keeps; the literature takes 0"},
    {"data", "workers", CONFIG_INT, "-1", -1, 256, NULL,
     "loader threads; 0 = in the main thread, -1 = by cores"},
    {"data", "resident", CONFIG_ENUM, "auto", NONE, "auto|on|off",
     "training set on the device, augmented there; auto: on cuda, up to 4 GiB"},

    {"augment", "padding", CONFIG_INT, "4", 0, 127, NULL,
     "zero padding of the random crop, pixels; 0 = no crop"},
    {"augment", "flip", CONFIG_BOOL, "true", NONE, NULL,
     "mirror left to right with probability 1/2"},
    {"augment", "policy", CONFIG_ENUM, "none", NONE, POLICY_NAMES,
     "after crop and flip. AutoAugment: the paper's 25 sub-policies, nearest neighbour, grey fill. "
     "RandAugment's conventions differ in scale and operations (magnitude 9 of timm's is about 3 "
     "times torchvision's): timm applies each with probability 1/2, bilinear or bicubic, grey; "
     "torchvision all, nearest, black"},
    {"augment", "randaug_n", CONFIG_INT, "2", 1, 16, NULL, "RandAugment: operations of an image"},
    {"augment", "randaug_m", CONFIG_FLOAT, "9", 0, 30, NULL,
     "RandAugment: magnitude; timm 0 to 10, torchvision 0 to 30, whole"},
    {"augment", "randaug_mstd", CONFIG_FLOAT, "0.5", 0, 100, NULL,
     "timm's RandAugment: deviation of the magnitude; 100: uniform from 0 to randaug_m"},
    {"augment", "randaug_inc", CONFIG_BOOL, "true", NONE, NULL,
     "timm's RandAugment: every operation grows with the magnitude (its inc1)"},
    {"augment", "cutout", CONFIG_INT, "0", 0, 8192, NULL,
     "side of a square painted in augment.mean about a random pixel, after the policy; 0 = none"},
    {"augment", "cutout_prob", CONFIG_FLOAT, "1", 0, 1, NULL, "probability of the square"},
    {"augment", "mean", CONFIG_FLOATS, "0.5071, 0.4867, 0.4408", 0, 1, NULL,
     "per channel, of images in 0..1"},
    {"augment", "std", CONFIG_FLOATS, "0.2675, 0.2565, 0.2761", 1e-6, 10, NULL,
     "per channel, of images in 0..1"},

    {"teacher", "model", CONFIG_STRING, "", NONE, NULL, "network; empty: no teacher"},
    {"teacher", "weights", CONFIG_PATH, "", NONE, NULL, "safetensors or .pth"},
    {"teacher", "expect_top1", CONFIG_FLOAT, "", 0, 100, NULL,
     "percent on the test set, asserted before step 1"},
    {"teacher", "tolerance", CONFIG_FLOAT, "0.2", 0, 100, NULL,
     "allowed distance from expect_top1, points"},
    {"teacher", "mean", CONFIG_FLOATS, "", 0, 1, NULL,
     "the teacher's own normalisation; empty: augment.mean"},
    {"teacher", "std", CONFIG_FLOATS, "", 1e-6, 10, NULL,
     "the teacher's own normalisation; empty: augment.std"},
    {"teacher", "precision", CONFIG_ENUM, "auto", NONE, "auto|fp32|bf16|fp16",
     "auto: as train.precision"},
    {"teacher", "memo", CONFIG_ENUM, "auto", NONE, "auto|on|off",
     "keep the teacher's logits of every view on disk; auto: where a run of so many epochs saves a "
     "quarter of the teacher's passes and all views fit"},
    {"teacher", "memo_dir", CONFIG_PATH, "", NONE, NULL,
     "folder of the memos; empty: memo beside run.out"},
    {"teacher", "memo_mib", CONFIG_INT, "4096", 1, 1e9, NULL, "limit of one memo's file, MiB"},
    {"teacher", "memo_batch", CONFIG_INT, "0", 0, 1048576, NULL,
     "images of a pass that fills the memo; 0 = train.batch, which gives the same bits as no memo"},

    {"student", "model", CONFIG_STRING, "resnet20", NONE, NULL, "network"},
    {"student", "weights", CONFIG_PATH, "", NONE, NULL,
     "initial weights; empty: drawn from the seed"},

    {"distill", "method", CONFIG_ENUM, "none", NONE, "none|kd|energy_kd", "objective"},
    {"distill", "temperature", CONFIG_FLOAT, "4", 0.01, 1000, NULL, "T of both softmaxes"},
    {"distill", "ce_weight", CONFIG_FLOAT, "0.1", 0, 1e6, NULL, "weight of the cross entropy"},
    {"distill", "kd_weight", CONFIG_FLOAT, "0.9", 0, 1e6, NULL,
     "weight of T^2 KL(teacher||student)"},
    {"distill", "label_smoothing", CONFIG_FLOAT, "0", 0, 0.999, NULL,
     "of the cross entropy, PyTorch's form"},

    {"energy_kd", "energy_temperature", CONFIG_FLOAT, "4", 0.01, 1000, NULL,
     "T of E = -T log sum exp(t/T)"},
    {"energy_kd", "r_low", CONFIG_FLOAT, "0.2", 0, 1, NULL,
     "share of the training set below the lower threshold"},
    {"energy_kd", "r_high", CONFIG_FLOAT, "0.2", 0, 1, NULL,
     "share of the training set above the upper threshold"},
    {"energy_kd", "t_low_energy", CONFIG_FLOAT, "6", 0.01, 1000, NULL,
     "T of certain samples; paper's abstract 6, released code 2 (UNSURE which made the published "
     "tables)"},
    {"energy_kd", "t_mid", CONFIG_FLOAT, "4", 0.01, 1000, NULL, "T between the thresholds"},
    {"energy_kd", "t_high_energy", CONFIG_FLOAT, "2", 0.01, 1000, NULL,
     "T of uncertain samples; paper's abstract 2, released code 6"},

    {"optim", "kind", CONFIG_ENUM, "sgd", NONE, "sgd", "optimizer, PyTorch's form"},
    {"optim", "lr", CONFIG_FLOAT, "0.05", 0, 1e6, NULL, "peak learning rate"},
    {"optim", "momentum", CONFIG_FLOAT, "0.9", 0, 1, NULL, "v = momentum v + (1 - dampening) g"},
    {"optim", "dampening", CONFIG_FLOAT, "0", 0, 1, NULL,
     "of the gradient in the momentum, from the second step on"},
    {"optim", "nesterov", CONFIG_BOOL, "false", NONE, NULL,
     "look ahead along the momentum; needs dampening 0"},
    {"optim", "weight_decay", CONFIG_FLOAT, "5e-4", 0, 1e6, NULL,
     "L2: this times the weight is added to its gradient"},
    {"optim", "decay_norm_bias", CONFIG_BOOL, "true", NONE, NULL,
     "decay batch-norm parameters and biases too"},
    {"optim", "clip_grad", CONFIG_FLOAT, "0", 0, 1e9, NULL,
     "limit of the gradient's norm; 0 = off"},
    {"optim", "loss_scale", CONFIG_STRING, "dynamic", NONE, NULL,
     "dynamic: for fp16 as PyTorch's GradScaler, else none; or a constant"},

    {"schedule", "kind", CONFIG_ENUM, "multistep", NONE, "constant|multistep|cosine|linear",
     "how the learning rate falls"},
    {"schedule", "epochs", CONFIG_INT, "240", 1, 1000000, NULL, "passes over the training set"},
    {"schedule", "milestones", CONFIG_INTS, "150, 180, 210", 1, 1000000, NULL,
     "multistep: epochs after which lr falls"},
    {"schedule", "gamma", CONFIG_FLOAT, "0.1", 0, 1, NULL, "multistep: factor at each milestone"},
    {"schedule", "warmup_epochs", CONFIG_INT, "0", 0, 1000000, NULL, "linear warm-up, per step"},
    {"schedule", "warmup_start", CONFIG_FLOAT, "0", 0, 1e6, NULL,
     "learning rate at the start of the warm-up"},
    {"schedule", "min_lr", CONFIG_FLOAT, "0", 0, 1e6, NULL, "end of cosine and linear"},
    {"schedule", "per_step", CONFIG_BOOL, "true", NONE, NULL,
     "cosine and linear move every step, not every epoch"},

    {"train", "batch", CONFIG_INT, "64", 1, 1048576, NULL, "images of a step"},
    {"train", "precision", CONFIG_ENUM, "auto", NONE, "auto|fp32|bf16|fp16",
     "activations; weights stay fp32"},
    {"train", "capture", CONFIG_ENUM, "auto", NONE, "auto|on|off",
     "record a step once and replay it; auto: where the device can"},
    {"train", "max_steps", CONFIG_INT, "0", 0, 1e15, NULL,
     "end after so many steps; 0 = all epochs"},
    {"train", "max_nonfinite", CONFIG_INT, "10", 1, 1e9, NULL,
     "skipped updates in a row that end the run (79); with a dynamic loss scale: at its lowest"},
    {"train", "skip_zscore", CONFIG_FLOAT, "0", 0, 1000, NULL,
     "skip an update whose gradient norm is so many standard deviations above its recent mean; 0 = "
     "never"},
    {"train", "time_limit", CONFIG_STRING, "", NONE, NULL,
     "as 90s, 12h or 23h50m: then a checkpoint and exit 75; empty: none"},

    {"eval", "batch", CONFIG_INT, "256", 1, 1048576, NULL, "images of an evaluation step"},
    {"eval", "every", CONFIG_INT, "1", 1, 1000000, NULL,
     "epochs between evaluations; the last one always"},

    {"dist", "device", CONFIG_ENUM, "auto", NONE, "auto|cpu|ref|cuda",
     "backend; auto: cuda where there is a GPU, else cpu"},
    {"dist", "threads", CONFIG_INT, "0", 0, 4096, NULL,
     "compute threads; 0 = OMP_NUM_THREADS, else cores less loader workers"},

    {"checkpoint", "every", CONFIG_INT, "0", 0, 1e15, NULL,
     "steps between checkpoints; 0 = every epoch"},
    {"checkpoint", "keep_last", CONFIG_INT, "3", 1, 1000000, NULL, "newest checkpoints that stay"},
    {"checkpoint", "max_failures", CONFIG_INT, "3", 1, 1000000, NULL,
     "failed saves in a row that end the run (74)"},

    {"log", "every_s", CONFIG_FLOAT, "60", 0, 1e9, NULL,
     "seconds between progress lines, or a tenth of an epoch where that is longer; the first comes "
     "after 10; the step after a line is clocked part by part; 0: every step"},
    {"log", "tensorboard", CONFIG_BOOL, "true", NONE, NULL, "event files in the folder tb"},
    {"log", "images", CONFIG_BOOL, "true", NONE, NULL,
     "a grid of augmented training pictures with the teacher's opinion"},
    {"log", "histograms", CONFIG_BOOL, "true", NONE, NULL,
     "the student's weights to TensorBoard, every epoch"},
    {"log", "prometheus", CONFIG_BOOL, "true", NONE, NULL, "status.prom for a text-file collector"},
    {"log", "predictions", CONFIG_BOOL, "true", NONE, NULL,
     "logits of the test set, for the report"},

    {"report", "auto", CONFIG_BOOL, "true", NONE, NULL, "report.html at the end of the run"},
};
#undef NONE

const ConfigKey *settings_schema(size_t *count)
{
    *count = sizeof schema / sizeof schema[0];
    return schema;
}
