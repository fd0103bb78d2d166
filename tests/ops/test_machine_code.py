"""What the compiler made of the kernels: innermost loops keep vectors in registers and multiply-add whole ones."""

import shutil
import subprocess

import pytest
from machine_code import ARM, X86, Loop, base_name, faults_of, functions_of, loops_of
from native_builds import compiled, every_build

from hyla.ops.native import build

KERNELS = {
    "hyla_unary": ("sigmoid_row", "silu_row", "softplus_row", "power_row"),
    "hyla_swiglu": ("swiglu_row",),
    "hyla_norm, hyla_heads": ("square_sum",),
    "hyla_sigmoid_gate": ("sigmoid_gate_row",),
    "hyla_conv": ("conv_row", "conv_silu_row"),
    "hyla_decays": ("decay_row", "beta_row"),
    "hyla_gated_norm": ("silu_gated_row", "sigmoid_gated_row"),
    "hyla_delta, both rules": ("product_rows", "add_rows", "fold_rows", "solve_rows"),
    "hyla_gate_heads": ("gated_head",),
    "hyla_softmax, hyla_route": ("exponentials", "sigmoid_scores"),
    "hyla_combine": ("combine_row",),
    "hyla_join": ("join_row",),
    "hyla_relu2": ("relu2_row",),
    "hyla_sum": ("sum_row",),
    "hyla_delta, gated": ("weigh", "decayed_keys"),
    "hyla_delta, KDA": ("pair_dots", "decayed_pair", "decayed_row", "exp_of_sums"),
    "hyla_delta_grad, both rules": (
        *("new_terms", "added_terms", "new_turned_terms", "added_turned_terms", "turned_terms"),
        *("solve_block", "add_times_row", "add_scaled_row", "dot_row"),
    ),
    "hyla_delta_grad, gated": ("weigh_pairs", "pairs_back"),
    "hyla_delta_grad, KDA": ("decay_along", "decayed_dots", "take_read", "inside_back", "add_decayed"),
    "hyla_decay, all rules": ("product_rows", "read_many", "read_few", "fold_rows", "scaled_row"),
    "hyla_decay, numbers": ("weigh_by_table", "weigh_by_gaps", "exp_row"),
    "hyla_decay, by channel": ("meet", "decayed_row", "exp_of_row", "exp_of_sums", "scaled_columns"),
    "hyla_decay_grad, all rules": ("new_terms", "turned_terms", "later_terms"),
    "hyla_decay_grad, numbers": ("earlier_terms", "weigh_by_table", "weigh_by_gaps", "add_scaled", "row_dot"),
    "hyla_decay_grad, by channel": ("more_terms", "pair_row", "join_block", "add_product", "times_row"),
    "hyla_activated, hyla_group_norm": ("activated_row", "product_row", "normed_row", "skip_row"),
    "hyla_rates": ("biased_row", "steps_row", "times_row"),
    "hyla_attention": ("score_group", "value_group", "merge_row", "factors_of", "soften_rows"),
    "hyla_attention_grad": ("score_block", "add_over_keys", "add_over_rows", "weigh_block", "dot_of_rows"),
    "hyla_attention_grad, sinks": ("sink_of_sequence",),
    "hyla_fp8_dense": ("dense_row",),
    "hyla_unary_grad": ("sigmoid_grad_row", "silu_grad_row", "softplus_grad_row"),
    "hyla_swiglu_grad": ("silu_slopes", "swiglu_back", "weighed_results"),
    "hyla_loss": ("exponentials_of", "times_number"),
    "hyla_row_sums": ("sum_of_exponentials",),
    "hyla_norm_grad, hyla_gated_grad": ("norm_dots", "norm_back"),
    "hyla_gated_grad": ("opened_row", "products_row", "three_row", "added_row", "factor_row", "dot_of", "weighed_row"),
    "hyla_decays_grad": ("decay_factors", "decay_back"),
    "hyla_rates_grad": ("mixed_slopes", "step_slopes", "value_back", "slope_back"),
    "hyla_conv_grad": ("mixed_row", "shares_row", "back_row", "unit_dots", "unit_back", "sloped_row"),
    "hyla_weight_grad": ("new_turned_terms",),
    "hyla_product": ("float_chains", "mixed_chains", "pair_chains", "upward_chains", "in_pairs_chains"),
}
"""By kernel: the functions whose innermost loops it spends its time in."""
IN_TILES = {"hyla_product": ("rows_in_tiles", "few_rows_in_tiles")}
"""The same of the build that has matrix tiles."""
WITHOUT_FMA = {
    *("conv_row", "decayed_keys", "dense_row", "gated_head", "combine_row", "join_row", "relu2_row", "sum_row"),
    *("scaled_row", "weigh_by_table", "scaled_columns", "product_row", "normed_row", "skip_row", "times_row"),
    *("sigmoid_grad_row", "swiglu_back", "decay_back", "slope_back", "unit_back", "sloped_row", "times_number"),
    *("products_row", "three_row", "added_row", "factor_row", "weighed_row"),
}
"""They multiply only: their sums are rounded after each product, as PyTorch's are."""
X86_BUILDS = [found for found in build.BUILDS if found.machine == "x86_64"]
CROSS = "aarch64-linux-gnu-"
can_read_x86 = pytest.mark.skipif(
    build.machine() != "x86_64" or shutil.which("objdump") is None or shutil.which("gcc") is None or not every_build(),
    reason="no gcc and objdump for x86-64 on this machine",
)
can_read_arm = pytest.mark.skipif(
    shutil.which(f"{CROSS}gcc") is None or shutil.which(f"{CROSS}objdump") is None,
    reason="no gcc-aarch64-linux-gnu on this machine",
)


def check(loops: list[Loop], functions: frozenset[str], kernels: dict[str, tuple[str, ...]]) -> None:
    assert faults_of(loops, functions) == []
    for kernel, names in kernels.items():
        for name in names:
            own = [loop for loop in loops if base_name(loop.function) == name]
            multiplying = [x for x in own if (x.vector_multiplies if name in WITHOUT_FMA else x.vector_fmas)]
            assert multiplying, f"{kernel}: no innermost loop of {name} multiplies vectors"


@can_read_x86
@pytest.mark.parametrize("wanted", X86_BUILDS, ids=lambda found: found.name)
def test_innermost_loops_keep_vectors_in_registers(wanted):
    """Every build is compiled and read, also those that this processor cannot run."""
    file = compiled(wanted)
    check(loops_of(file, X86), functions_of(file), KERNELS | ({} if wanted.name != "amx" else IN_TILES))


@can_read_arm
def test_innermost_loops_keep_vectors_in_registers_on_arm():
    neon = next(found for found in build.BUILDS if found.name == "neon")
    file, objdump = compiled(neon, f"{CROSS}gcc"), f"{CROSS}objdump"
    check(loops_of(file, ARM, objdump), functions_of(file, objdump), KERNELS)


SLOW = """
typedef float wide __attribute__((vector_size(64), aligned(4)));
void add(long n, const float *x, const wide *y, wide *out) {
    wide a = out[0], b = out[1], c = out[2], d = out[3];
    for (long i = 0; i < n; i++)
        for (int j = 0; j < 16; j++) {
            a[j] = __builtin_fmaf(x[i], y[4 * i][j], a[j]), b[j] = __builtin_fmaf(x[i], y[4 * i + 1][j], b[j]);
            c[j] = __builtin_fmaf(x[i], y[4 * i + 2][j], c[j]), d[j] = __builtin_fmaf(x[i], y[4 * i + 3][j], d[j]);
        }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}
"""
"""How the kernels were written: a vector of 16 floats in plain C, whatever the registers."""


@can_read_x86
def test_vectors_wider_than_registers_are_seen(tmp_path):
    (tmp_path / "slow.c").write_text(SLOW)
    file = tmp_path / "slow.so"
    avx2 = next(found for found in build.BUILDS if found.name == "avx2")
    subprocess.run(["gcc", *build.FLAGS, *avx2.flags, "-shared", str(tmp_path / "slow.c"), "-o", str(file)], check=True)
    faults = faults_of(loops_of(file, X86), functions_of(file))
    assert any("through the stack" in fault for fault in faults) or any("scalar" in fault for fault in faults), faults
