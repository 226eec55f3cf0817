/* Matrix products by cuBLASLt. The only file that includes its header.
 *
 * cuBLAS is column-major: a row-major C [m][n] is its n x m matrix, so the product is asked as C' = B' A', and the bias,
 * which runs along C's rows, runs down its columns as the bias epilogue wants it. */
#include "backend/cuda_cublas.h"

#include <cublasLt.h>

#include <stdlib.h>

enum { MAX_WORKSPACE = 8 << 20 /* bytes */, ALIGNMENT = 16 };

struct CublasContext {
    cublasLtHandle_t handle; /* NULL: a described device */
};

struct CublasPlan {
    CublasSpec spec;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c; /* in cuBLAS's roles: its A is our B */
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace;
};

Err *cublas_context_open(bool described, CublasContext **out)
{
    CublasContext *context = xcalloc(1, sizeof *context);
    *out = NULL;
    const cublasStatus_t status =
        described ? CUBLAS_STATUS_SUCCESS : cublasLtCreate(&context->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        free(context);
        return err_new(EXIT_NO_DEVICE, "cuBLAS does not open the device: %s",
                       cublasLtGetStatusString(status));
    }
    *out = context;
    return NULL;
}

void cublas_context_close(CublasContext *context)
{
    if (context && context->handle) {
        (void)cublasLtDestroy(context->handle);
    }
    free(context);
}

static cudaDataType_t data_type(DType type)
{
    return type == DT_F16 ? CUDA_R_16F : type == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

/* A row-major matrix of rows x columns as it is stored. */
static cublasStatus_t layout(cublasLtMatrixLayout_t *out, DType type, int rows, int columns)
{
    return cublasLtMatrixLayoutCreate(out, data_type(type), (uint64_t)columns, (uint64_t)rows,
                                      columns);
}

static cublasStatus_t set_product(cublasLtMatmulDesc_t product, const CublasSpec *spec)
{
    const cublasOperation_t of_a = spec->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t of_b = spec->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue =
        spec->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const cudaDataType_t bias = CUDA_R_32F;
    const struct {
        cublasLtMatmulDescAttributes_t name;
        const void *value;
        size_t size;
    } attributes[] = {{CUBLASLT_MATMUL_DESC_TRANSA, &of_a, sizeof of_a},
                      {CUBLASLT_MATMUL_DESC_TRANSB, &of_b, sizeof of_b},
                      {CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue},
                      {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias}};
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0;
         i < sizeof attributes / sizeof attributes[0] && status == CUBLAS_STATUS_SUCCESS; i++) {
        status = cublasLtMatmulDescSetAttribute(product, attributes[i].name, attributes[i].value,
                                                attributes[i].size);
    }
    return status;
}

static cublasStatus_t set_preference(cublasLtMatmulPreference_t preference, bool deterministic)
{
    const uint64_t workspace = MAX_WORKSPACE;
    const uint32_t align = ALIGNMENT;
    const uint32_t schemes =
        deterministic ? CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
                      : CUBLASLT_REDUCTION_SCHEME_MASK;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t size;
    } attributes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align, sizeof align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align, sizeof align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align, sizeof align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align, sizeof align},
    };
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    for (size_t i = 0;
         i < sizeof attributes / sizeof attributes[0] && status == CUBLAS_STATUS_SUCCESS; i++) {
        status = cublasLtMatmulPreferenceSetAttribute(preference, attributes[i].name,
                                                      attributes[i].value, attributes[i].size);
    }
    return status;
}

static cublasStatus_t choose(CublasContext *context, CublasPlan *plan, bool deterministic)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&preference);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    status = set_preference(preference, deterministic);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulAlgoGetHeuristic(context->handle, plan->product, plan->a, plan->b,
                                                plan->c, plan->c, preference, 1, &result, &found);
    }
    (void)cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : result.state;
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        plan->algorithm = result.algo;
        plan->workspace = result.workspaceSize;
    }
    return status;
}

static cublasStatus_t describe(CublasPlan *plan)
{
    const CublasSpec *s = &plan->spec;
    cublasStatus_t status =
        cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_product(plan->product, s);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            layout(&plan->a, s->in, s->b_transposed ? s->n : s->k, s->b_transposed ? s->k : s->n);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            layout(&plan->b, s->in, s->a_transposed ? s->k : s->m, s->a_transposed ? s->m : s->k);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = layout(&plan->c, DT_F32, s->m, s->n);
    }
    return status;
}

Err *cublas_plan_make(CublasContext *context, const CublasSpec *spec, bool deterministic,
                      CublasPlan **out)
{
    CublasPlan *plan = xcalloc(1, sizeof *plan);
    plan->spec = *spec;
    plan->workspace = MAX_WORKSPACE;
    *out = NULL;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (context->handle) {
        status = describe(plan);
    }
    if (context->handle && status == CUBLAS_STATUS_SUCCESS) {
        status = choose(context, plan, deterministic);
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        cublas_plan_free(plan);
        return err_new(EXIT_CONFIG_ERR, "cuBLAS has no product %d x %d x %d in %s%s: %s", spec->m,
                       spec->n, spec->k, dtype_name(spec->in), spec->bias ? " with bias" : "",
                       cublasLtGetStatusString(status));
    }
    *out = plan;
    return NULL;
}

size_t cublas_plan_workspace(const CublasPlan *plan)
{
    return plan->workspace;
}

int cublas_plan_run(CublasContext *context, const CublasPlan *plan, KernelStream stream,
                    const void *a, const void *b, const float *bias, bool add, float *c,
                    void *workspace)
{
    const float alpha = 1.0f;
    const float beta = add ? 1.0f : 0.0f;
    if (plan->spec.bias) {
        const cublasStatus_t status = cublasLtMatmulDescSetAttribute(
            plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
        if (status != CUBLAS_STATUS_SUCCESS) {
            return status;
        }
    }
    return cublasLtMatmul(context->handle, plan->product, &alpha, b, plan->a, a, plan->b, &beta, c,
                          plan->c, c, plan->c, &plan->algorithm, workspace, plan->workspace,
                          stream);
}

void cublas_plan_free(CublasPlan *plan)
{
    if (!plan) {
        return;
    }
    (void)cublasLtMatrixLayoutDestroy(plan->a);
    (void)cublasLtMatrixLayoutDestroy(plan->b);
    (void)cublasLtMatrixLayoutDestroy(plan->c);
    (void)cublasLtMatmulDescDestroy(plan->product);
    free(plan);
}

const char *cublas_status_text(int status)
{
    return cublasLtGetStatusString((cublasStatus_t)status);
}
