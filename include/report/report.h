/* The HTML report of one run or of several: one file with everything in it, below 2 MB, that opens offline, in light and
 * dark and on paper. It reads nothing but the folders of the runs. */
#ifndef CUDISTILL_REPORT_REPORT_H
#define CUDISTILL_REPORT_REPORT_H

#include "base/err.h"

#include <stddef.h>

enum { REPORT_BYTES_MAX = 2000000 };

/* Several runs give a comparison, the first being what the others are compared with; details of the later ones are left
 * out, with a word, where the page would grow too large. Folders that are no runs are reported on stderr and left out.
 * out_path NULL: report.html in the folder of a single run, "report.html" here for several. The file is whole or
 * untouched. *written, where asked for, is its path, caller frees. EXIT_NO_INPUT when no run can be read; errors of
 * writing as file_write_atomic. */
Err *report_write_to(const char *const *runs, size_t n, const char *out_path, char **written);
Err *report_write(const char *const *runs, size_t n, const char *out_path);

#endif
