/* Tables of runs: grouped by what was asked for apart from the seed, mean and spread over seeds, beside the published
 * figure. Reads the summary of each run's folder (report/run_data.h). */
#ifndef CUDISTILL_REPORT_TABLE_H
#define CUDISTILL_REPORT_TABLE_H

#include "base/err.h"
#include "base/text.h"
#include "report/published.h"
#include "report/run_data.h"
#include "report/stats.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum { TABLE_TEXT, TABLE_MARKDOWN, TABLE_CSV, TABLE_JSON } TableForm;

/* One line: runs that differ in nothing but the seed and what cannot change a result. */
typedef struct {
    const RunData **runs;
    size_t count, capacity;
    size_t finished; /* the statistics are of these; of all when none has finished */
    Spread last, best, agreement, seconds, teacher;
    bool published;
    Published figure;
    char *
        settings; /* "optim.lr=0.1": what tells this group from others of the same pair and method; "" */
    char *remark; /* why figures are not comparable, what is unfinished; "" */
} TableGroup;

typedef struct {
    RunData **runs;
    size_t run_count, run_capacity;
    TableGroup *groups;
    size_t count, capacity;
    char *skipped; /* a line for each folder that could not be read; "" */
} Table;

/* Each path is the folder of a run, or one that holds such folders, however deep (4). EXIT_NO_INPUT when there is none. */
Err *table_open(const char *const *paths, size_t n, Table **out);
void table_free(Table *table); /* accepts NULL */
void table_print(const Table *table, TableForm form, Text *out);

#endif
