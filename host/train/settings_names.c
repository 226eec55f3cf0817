/* The names of our keys in RepDistiller, mdistiller and timm, and spellings that are common elsewhere. */
#include "train/settings_names.h"

#include "train/settings.h"

#include <string.h>

/* Columns: RepDistiller, mdistiller, timm, common spellings. */
static const ConfigNames names[] = {
    {"run", "name", {NULL, "EXPERIMENT.NAME", "--experiment", "run_name|exp_name|experiment_name"}},
    {"run", "out", {NULL, "LOG.PREFIX", "--output", "output_dir|out_dir|save_dir|work_dir|logdir"}},
    {"run", "seed", {"--trial", NULL, "--seed", "random_seed|manual_seed|rng_seed"}},
    {"run", "deterministic", {NULL, NULL, NULL, "cudnn_deterministic|reproducible"}},
    {"run", "project", {NULL, "EXPERIMENT.PROJECT", NULL, "wandb_project|group"}},
    {"run", "tags", {NULL, "EXPERIMENT.TAG", NULL, "tag"}},
    {"run", "notes", {NULL, NULL, NULL, "description|comment"}},

    {"data", "kind", {"--dataset", "DATASET.TYPE", "--dataset|-d", "data_set|dataset_name"}},
    {"data",
     "root",
     {NULL, NULL, "--data-dir", "data_path|dataset_path|data_root|dataset_root|data_folder"}},
    {"data",
     "imbalance",
     {NULL, NULL, NULL, "imbalance_factor|imb_factor|imbalance_ratio|imb_ratio|long_tail"}},
    {"data", "imbalance_seed", {NULL, NULL, NULL, "rand_number|imb_seed"}},
    {"data",
     "workers",
     {"--num_workers", "DATASET.NUM_WORKERS", "--workers|-j", "n_workers|loader_workers"}},
    {"data", "resident", {NULL, NULL, NULL, "cache_on_device|cache_dataset"}},

    {"augment", "padding", {NULL, NULL, NULL, "crop_padding|pad|random_crop"}},
    {"augment", "flip", {NULL, NULL, "--hflip", "horizontal_flip|random_flip|mirror"}},
    {"augment",
     "policy",
     {NULL, NULL, "--aa", "auto_augment|autoaugment|rand_augment|randaugment|augmentation"}},
    {"augment", "randaug_n", {NULL, NULL, NULL, "num_ops|n_ops|rand_n"}},
    {"augment", "randaug_m", {NULL, NULL, NULL, "magnitude|rand_m"}},
    {"augment", "randaug_mstd", {NULL, NULL, NULL, "mstd|magnitude_std"}},
    {"augment", "randaug_inc", {NULL, NULL, NULL, "inc|increasing"}},
    {"augment", "cutout", {NULL, NULL, NULL, "cutout_length|cutout_size|cutout_side"}},
    {"augment", "mean", {NULL, NULL, "--mean", "normalize_mean|pixel_mean|image_mean"}},
    {"augment", "std", {NULL, NULL, "--std", "normalize_std|pixel_std|image_std"}},

    {"teacher",
     "model",
     {NULL, "DISTILLER.TEACHER", NULL, "model_t|teacher_model|teacher_arch|teacher_name"}},
    {"teacher",
     "weights",
     {"--path_t", NULL, NULL,
      "teacher_path|teacher_ckpt|teacher_checkpoint|teacher_weights|t_path"}},

    {"student",
     "model",
     {"--model_s", "DISTILLER.STUDENT", "--model", "student_model|student_arch|arch|network"}},
    {"student",
     "weights",
     {NULL, NULL, "--initial-checkpoint", "student_path|init_weights|pretrained_path"}},

    {"distill", "method", {"--distill", "DISTILLER.TYPE", NULL, "kd_method|distiller"}},
    {"distill",
     "temperature",
     {"--kd_T", "KD.TEMPERATURE", NULL, "T|tau|temp|kd_temperature|kd_temp"}},
    {"distill",
     "ce_weight",
     {"--gamma|-r", "KD.LOSS.CE_WEIGHT", NULL, "hard_weight|cls_weight|ce_loss_weight"}},
    {"distill",
     "kd_weight",
     {"--alpha|-a", "KD.LOSS.KD_WEIGHT", NULL, "soft_weight|kl_weight|div_weight|kd_loss_weight"}},
    {"distill",
     "label_smoothing",
     {NULL, NULL, "--smoothing", "smooth|ls|label_smooth|smoothing_factor"}},

    {"optim", "kind", {NULL, "SOLVER.TYPE", "--opt", "optimizer|optimiser|solver"}},
    {"optim", "lr", {"--learning_rate", "SOLVER.LR", "--lr", "base_lr|initial_lr|lr0|max_lr"}},
    {"optim", "momentum", {"--momentum", "SOLVER.MOMENTUM", "--momentum", "sgd_momentum|mom"}},
    {"optim",
     "weight_decay",
     {"--weight_decay", "SOLVER.WEIGHT_DECAY", "--weight-decay", "wd|decay|l2|weightdecay"}},
    {"optim",
     "clip_grad",
     {NULL, NULL, "--clip-grad", "grad_clip|max_grad_norm|clip_norm|gradient_clip|clip_grad_norm"}},
    {"optim", "loss_scale", {NULL, NULL, NULL, "grad_scale|loss_scaling|amp_scale"}},
    {"optim", "decay_norm_bias", {NULL, NULL, NULL, "decay_bn|bn_decay|decay_bias"}},

    {"schedule", "kind", {NULL, NULL, "--sched", "scheduler|lr_scheduler|lr_schedule|lr_policy"}},
    {"schedule",
     "epochs",
     {"--epochs", "SOLVER.EPOCHS", "--epochs", "num_epochs|n_epochs|max_epochs|total_epochs"}},
    {"schedule",
     "milestones",
     {"--lr_decay_epochs", "SOLVER.LR_DECAY_STAGES", "--decay-milestones",
      "lr_steps|lr_milestones|decay_steps|lr_step"}},
    {"schedule",
     "gamma",
     {"--lr_decay_rate", "SOLVER.LR_DECAY_RATE", "--decay-rate|--dr",
      "lr_gamma|lr_decay|decay_factor"}},
    {"schedule",
     "warmup_epochs",
     {NULL, NULL, "--warmup-epochs", "warmup|warm_up|lr_warmup_epochs"}},
    {"schedule", "warmup_start", {NULL, NULL, "--warmup-lr", "lr_warmup|warmup_start_lr"}},
    {"schedule", "min_lr", {NULL, NULL, "--min-lr", "eta_min|lr_min|end_lr|final_lr"}},
    {"schedule", "per_step", {NULL, NULL, "--sched-on-updates", "step_every_batch|per_iteration"}},

    {"train",
     "batch",
     {"--batch_size", "SOLVER.BATCH_SIZE", "--batch-size|-b",
      "bs|batchsize|train_batch|train_batch_size|global_batch"}},
    {"train",
     "precision",
     {NULL, NULL, "--amp-dtype|--amp", "dtype|fp16|bf16|half|mixed_precision|use_amp|autocast"}},
    {"train", "capture", {NULL, NULL, NULL, "cuda_graph|cuda_graphs|graph"}},
    {"train", "max_steps", {NULL, NULL, NULL, "num_steps|total_steps|max_iters|iterations|steps"}},
    {"train", "time_limit", {NULL, NULL, NULL, "max_time|timeout|walltime|time"}},

    {"eval",
     "batch",
     {NULL, "DATASET.TEST.BATCH_SIZE", "--validation-batch-size|-vb",
      "eval_batch|eval_batch_size|test_batch|test_batch_size|val_batch_size"}},
    {"eval", "every", {NULL, NULL, NULL, "eval_interval|eval_freq|val_interval|eval_every"}},

    {"dist", "device", {NULL, NULL, "--device", "backend|accelerator|gpu"}},
    {"dist", "threads", {NULL, NULL, NULL, "num_threads|n_threads|omp_num_threads"}},

    {"checkpoint",
     "every",
     {NULL, NULL, "--recovery-interval", "save_every|save_steps|checkpoint_every|ckpt_every"}},
    {"checkpoint",
     "keep_last",
     {NULL, NULL, "--checkpoint-hist", "keep|max_checkpoints|save_total_limit|keep_checkpoints"}},

    {"log", "every_s", {NULL, NULL, NULL, "log_every|log_seconds|print_every"}},
    {"log", "tensorboard", {NULL, NULL, NULL, "tb|use_tensorboard|tb_log"}},
    {"log", "images", {NULL, NULL, NULL, "save_images|log_images"}},
    {"log", "predictions", {NULL, NULL, NULL, "save_logits|save_predictions"}},
};

#define ORIGINS                                                                                    \
    {                                                                                              \
        "RepDistiller", "mdistiller", "timm", NULL                                                 \
    }

/* Words of other programs for the choices of an enum, as PyTorch, timm and mdistiller write them. */
static const ConfigWord words[] = {
    {"bfloat16", "bf16"},
    {"float16", "fp16"},
    {"half", "fp16"},
    {"float32", "fp32"},
    {"float", "fp32"},
    {"full", "fp32"},
    {"32", "fp32"},
    {"gpu", "cuda"},
    {"cuda:0", "cuda"},
    {"reference", "ref"},
    {"step", "multistep"},
    {"MultiStepLR", "multistep"},
    {"CosineAnnealingLR", "cosine"},
    {"cos", "cosine"},
    {"poly", "linear"},
    {"LinearLR", "linear"},
    {"fixed", "constant"},
    {"vanilla", "none"},
    {"baseline", "none"},
    {"ce", "none"},
    {"hinton", "kd"},
    {"kl", "kd"},
    {"energy", "energy_kd"},
    {"momentum", "sgd"},
    {"fake", "synthetic"},
    {"random", "synthetic"},
    {"true", "on"},
    {"yes", "on"},
    {"1", "on"},
    {"false", "off"},
    {"no", "off"},
    {"0", "off"},
};

const char *names_origin(NameOrigin origin)
{
    static const char *const origins[NAMES_COUNT] = ORIGINS;
    return origins[origin];
}

const ConfigNames *settings_names(size_t *count)
{
    *count = sizeof names / sizeof names[0];
    return names;
}

const char *settings_name(const char *section, const char *key, NameOrigin origin)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i].section, section) == 0 && strcmp(names[i].key, key) == 0) {
            return names[i].names[origin];
        }
    }
    return NULL;
}

ConfigTable settings_table(void)
{
    ConfigTable table = {
        .origins = ORIGINS, .words = words, .word_count = sizeof words / sizeof words[0]};
    table.keys = settings_schema(&table.key_count);
    table.names = settings_names(&table.name_count);
    return table;
}
