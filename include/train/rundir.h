/* The folder of a run: its files, and who reads them. `cudistill report` and `table` need nothing but these files.
 *
 *   config.ini          the resolved configuration: runs again from any folder
 *   config.origin.tsv   "section.key <tab> value <tab> FILE:LINE, --set or default", one line a key
 *   manifest.json       what the run is and what became of it (below); replaced whole at every change
 *   env.json            host, processor, memory, libraries with versions, limits, the environment variables that matter
 *   log.txt             what was said, plain, with times
 *   metrics.jsonl       train/metrics.h: events "start", "step", "epoch", "memo", "resume", "histogram", "checkpoint", "nonfinite"
 *   epochs.csv          a line an epoch, timm's column names first
 *   tb/                 TensorBoard event files (io/events.h), log.tensorboard
 *   status.prom         Prometheus text file, replaced at every progress line, log.prometheus
 *   classes.json        names of the classes, in order
 *   checkpoints/        train/checkpoint.h
 *   student_last.safetensors, student_best.safetensors
 *   images/samples.png, images/samples.json   augmented training pictures of epoch 1 and what the teacher says, log.images
 *   predictions/student.npy, teacher.npy      logits of the test set in its order, float16 [N,C]; labels.npy int32 [N];
 *                       the student's are of the last epoch; log.predictions, up to 512 MiB each. The largest element
 *                       of a row, the first of ties, is the class that was counted
 *   histograms.json     of the teacher's energy and of the temperatures that follow from it
 *   errors/rank-000.json   of a run that ended with an error: time, code, message, step, epoch; gone when it goes on
 *   nonfinite-step-N/batch.json   what the run that gave up (79) had last seen: samples, loss terms, first tensor not finite
 *   report.html         `cudistill report`, also made at the end with report.auto
 *   LOCK                held while a process works here
 *
 * manifest.json: {"format":1, "version", "commit", "name", "project", "tags", "notes", "seed", "status": "running" |
 * "finished" | "preempted" | "interrupted" | "failed", "exit_code", "error": text or null, "started", "updated": seconds
 * since 1970, "student", "student_parameters", "teacher" ("" = none), "teacher_weights", "teacher_hash", "method",
 * "formula", "device" (the processor's name), "backend" ("cpu", "cuda", "ref"), "precision" ("f32", "bf16", "f16"),
 * "batch", "epochs", "dataset": {"name","source","hash","train","test","classes","size"},
 * "resumes": [{"time","step","host"}], "result": {"last_top1","last_top5","last_loss","best_top1","best_epoch",
 * "teacher_top1","teacher_top5","agreement" (same class as the teacher, test set),"epochs","steps","train_seconds",
 * "images_per_s","nonfinite_steps"}}; percent; null where unknown. It is written at the beginning, after the preparation, at
 * every epoch and at the end: a run whose process was killed stays "running". "error" is null unless the exit code is
 * above 0. Being started again when finished changes nothing but the weights' dates.
 *
 * samples.json: {"size":32,"columns":8,"scale":1,"gap":2,"pictures":[{"sample":12,"label":3,"dx":4,"dy":0,"flip":true,
 * "teacher":[{"class":3,"p":0.91},...3],"energy":-9.1,"temperature":4}]}; picture i stands in row i/columns of the grid;
 * with a policy or cutout also "policy":"Rotate 27, Equalize, cutout at 3,17", what was done to it after crop and flip.
 * histograms.json: {"energy":{"of":"teacher, training set","edges":[n+1],"counts":[n]},
 * "temperature":{"of":"...","values":[2,4,6],"counts":[...]}}; a member is absent where there is no teacher. */
#ifndef CUDISTILL_TRAIN_RUNDIR_H
#define CUDISTILL_TRAIN_RUNDIR_H

#define RUN_CONFIG "config.ini"
#define RUN_ORIGINS "config.origin.tsv"
#define RUN_MANIFEST "manifest.json"
#define RUN_ENVIRONMENT "env.json"
#define RUN_LOG "log.txt"
#define RUN_METRICS "metrics.jsonl"
#define RUN_EPOCHS "epochs.csv"
#define RUN_EVENTS "tb"
#define RUN_PROMETHEUS "status.prom"
#define RUN_CLASSES "classes.json"
#define RUN_SAMPLES_PNG "images/samples.png"
#define RUN_SAMPLES_JSON "images/samples.json"
#define RUN_STUDENT_LOGITS "predictions/student.npy"
#define RUN_TEACHER_LOGITS "predictions/teacher.npy"
#define RUN_LABELS "predictions/labels.npy"
#define RUN_HISTOGRAMS "histograms.json"
#define RUN_REPORT "report.html"

#endif
