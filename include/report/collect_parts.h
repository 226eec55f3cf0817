/* The parts of run_data_open; only host/report/collect*.c include this. Each reads its files of the folder into `run`
 * and leaves a note for what it could not use. */
#ifndef CUDISTILL_REPORT_COLLECT_PARTS_H
#define CUDISTILL_REPORT_COLLECT_PARTS_H

#include "report/run_data.h"

#include <jansson.h>

void run_note(RunData *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
void run_texts_add(RunTexts *texts, char *owned);

/* The whole file, NULL when it is absent or cannot be read (then with a note). Caller frees. */
char *run_file_text(RunData *run, const char *name, size_t max_bytes);
json_t *run_file_json(RunData *run, const char *name, size_t max_bytes);

/* NaN for numbers that no run can have, which would spoil scales and overflow differences. */
double run_number(double value);

/* Members of a JSON object: fallback where absent or of another type; null is NaN. */
double json_member_number(const json_t *object, const char *key);
int json_member_int(const json_t *object, const char *key, int low, int high, int fallback);
char *json_member_text(const json_t *object, const char *key);

void collect_records(RunData *run); /* metrics.jsonl, else epochs.csv */
void collect_settings(RunData *run);
void collect_pictures(RunData *run);
void collect_histograms(RunData *run);
void collect_logits(RunData *run);

#endif
