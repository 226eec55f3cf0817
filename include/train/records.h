/* Everything that a run writes down for people and programs, behind one door: each call puts what happened into all files
 * of train/rundir.h that it belongs into (metrics.jsonl, epochs.csv, TensorBoard, status.prom, manifest.json, pictures,
 * predictions).
 *
 * Records never end a run: what cannot be written (full disk, removed file) costs a warning, once until something could
 * be written again. They never change what is trained. Only records_open returns an error: a folder that cannot be
 * written at its very beginning is the user's mistake.
 *
 * Life cycle: run_open calls records_open as soon as the folder is this process's; run_prepare calls records_prepared;
 * then the loop's calls; records_end when it is known how the run ended; run_close calls records_close. All of them
 * accept a run whose records were never opened and do nothing then. Not for several threads. */
#ifndef CUDISTILL_TRAIN_RECORDS_H
#define CUDISTILL_TRAIN_RECORDS_H

#include "train/evaluate.h"
#include "train/metrics.h"
#include "train/run.h"

/* Begins the files, or continues those of the resumed step: what was recorded of later steps is cut off. */
Err *records_open(Run *run);
void records_close(Records *records);

/* ---- For the loop ---- */

/* An interval is over: call while run->interval holds it. eta_s: seconds to the end, < 0 unknown. */
void records_step(Run *run, double eta_s);
/* The end of an epoch (or of the run within one). */
void records_epoch(Run *run, const EpochRecord *record);
/* A free-form event of metrics.jsonl at the run's step; fields as metrics_event takes them. */
void records_event(Run *run, const char *kind, const char *json_fields);
/* The student's evaluation on the test set, its executor refreshed. last: of the run's last epoch (or step): its logits
 * become predictions/student.npy, and state.agreement is taken. */
EvalResult records_evaluate(Run *run, bool last);
/* How the run ended; err NULL: finished. By its code the manifest says preempted, interrupted or failed; then
 * errors/rank-000.json is written, too. Does not free err. */
void records_end(Run *run, const Err *err);
/* Policy above for an error of the caller's own (best weights that could not be written): frees it. */
void records_note(Run *run, Err *err);

/* ---- For run.c and prepare.c ---- */

/* The teacher's check: evaluates it with `exec`, keeps its logits for predictions/teacher.npy, its energies, and what it
 * says of the first training pictures. */
EvalResult records_check_teacher(Run *run, Exec *exec);
/* The energies (any order) of the pass that sets the thresholds; copied. */
void records_energies(Run *run, const float *energies, size_t count);
/* Before step 1, after the passes: predictions/teacher.npy, images/samples.*, histograms.json. */
void records_prepared(Run *run);

#endif
