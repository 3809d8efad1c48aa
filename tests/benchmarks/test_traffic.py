"""Counted by hand, on short texts after what XLA prints for a GPU."""

import pytest

from benchmarks import hlo, traffic

TEXT = """\
HloModule jit_step, is_scheduled=true

FileNames
1 "/somewhere/run.py"
2 "/somewhere/hiresmed_jax/nets/blocks.py"
3 "/somewhere/flax/linen.py"

FunctionNames
1 "main"

FileLocations
1 {file_name_id=1 function_name_id=1 line=13 end_line=13 column=4 end_column=29}
2 {file_name_id=2 function_name_id=1 line=48 end_line=48 column=9 end_column=58}
3 {file_name_id=3 function_name_id=1 line=5 end_line=5 column=9 end_column=58}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_sums (x: bf16[4,8], m: f32[4]) -> (f32[4], bf16[4,8]) {
  %x = bf16[4,8]{1,0} parameter(0)
  %m = f32[4]{0} parameter(1)
  %wide = f32[4,8]{1,0} convert(%x)
  %all = f32[4,8]{1,0} broadcast(%m), dimensions={0}
  %centred = f32[4,8]{1,0} subtract(%wide, %all)
  %zero = f32[] constant(0)
  %total = f32[4]{0} reduce(%centred, %zero), dimensions={1}, to_apply=%add
  %narrow = bf16[4,8]{1,0} convert(%centred)
  ROOT %both = (f32[4]{0}, bf16[4,8]{1,0}) tuple(%total, %narrow)
}

%fused_slice (x: bf16[4,8]) -> bf16[1,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  %flat = bf16[32]{0} bitcast(%x)
  ROOT %part = bf16[1,8]{1,0} slice(%flat), slice={[0:8]}
}

%fused_update (big: f32[100,8], row: f32[1,8], at: s32[]) -> f32[100,8] {
  %big = f32[100,8]{1,0} parameter(0)
  %row = f32[1,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %two = f32[1,8]{1,0} add(%row, %row)
  %zero = s32[] constant(0)
  ROOT %new = f32[100,8]{1,0} dynamic-update-slice(%big, %two, %at, %zero)
}

%body (carry: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %carry = (s32[], f32[100,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %big = f32[100,8]{1,0} get-tuple-element(%carry), index=1
  %row = f32[1,8]{1,0} dynamic-slice(%big, %i, %i), dynamic_slice_sizes={1,8}
  %update = f32[100,8]{1,0} fusion(%big, %row, %i), kind=kLoop, calls=%fused_update
  ROOT %next = (s32[], f32[100,8]{1,0}) tuple(%i, %update)
}

%condition (carry: (s32[], f32[100,8])) -> pred[] {
  %carry = (s32[], f32[100,8]{1,0}) parameter(0)
  ROOT %on = pred[] constant(true)
}

ENTRY %main (p: bf16[4,8], q: f32[4], k: bf16[3,3]) -> f32[4] {
  %p = bf16[4,8]{1,0} parameter(0)
  %q = f32[4]{0} parameter(1)
  %k = bf16[3,3]{1,0} parameter(2)
  %pair = (bf16[4,8]{1,0}, f32[4]{0}) tuple(%p, %q)
  %same = bf16[4,8]{1,0} get-tuple-element(%pair), index=0
  ENTRY_PARTS
}
"""
SUMS = (
  "%sums = (f32[4]{0}, bf16[4,8]{1,0}) fusion(%p, %q), kind=kInput, calls=%fused_sums, metadata={"
  'op_name="jit(step)/transpose(jvp(VQGAN.decode))/stage/norm/sum" stack_frame_id=3}'
)
CONVOLUTION = (
  "%conv = (bf16[4,8]{1,0}, u8[1000]{0}) custom-call(%p, %k), "
  'custom_call_target="__cudnn$convForward"'
)
LOOP = (
  "%loop = (s32[], f32[100,8]{1,0}) while(%start), condition=%condition, body=%body, "
  'backend_config={"known_trip_count":{"n":"5"}}'
)


def kernels(*lines):
  return traffic.kernels(hlo.parse(TEXT.replace("ENTRY_PARTS", "\n  ".join(lines))))


def test_a_fusion_reads_its_operands_and_writes_its_results_once():
  (one,) = kernels(SUMS, "%g = f32[4]{0} get-tuple-element(%sums), index=0")
  assert (one.read, one.written, one.times) == (4 * 8 * 2 + 4 * 4, 4 * 4 + 4 * 8 * 2, 1)
  # The subtraction, and the sum of as many values; conversions are none.
  assert one.flops == 32 + 32 + 1
  assert one.kind == "other"
  assert one.module == "VQGAN.decode/stage/norm, back"
  assert one.source == "nets/blocks.py:48"


def test_one_value_under_two_names_is_read_once():
  (one,) = kernels("%sum = bf16[4,8]{1,0} add(%p, %same)")
  assert one.read == one.written == 64


def test_what_is_sliced_is_charged_for_what_it_reads():
  fused, plain = kernels(
    "%f = bf16[1,8]{1,0} fusion(%p), kind=kLoop, calls=%fused_slice",
    "%s = bf16[2,8]{1,0} slice(%p), slice={[0:2],[0:8]}",
  )
  assert (fused.read, fused.written) == (16, 16)
  assert (plain.read, plain.written) == (32, 32)


def test_a_workspace_is_counted_apart():
  (one,) = kernels(CONVOLUTION)
  assert (one.kind, one.read, one.written, one.workspace) == ("convolution", 64 + 18, 64, 1000)


def test_a_loop_counts_by_its_trips_and_an_update_in_place_by_the_update():
  row, update = kernels("%start = (s32[], f32[100,8]{1,0}) tuple(%q, %q)", LOOP)
  assert (row.times, row.read, row.written) == (5, 32 + 4, 32)
  assert (update.times, update.read, update.written) == (5, 32 + 4, 32)
  assert update.bytes == 5 * 68


@pytest.mark.parametrize(
  ("line", "kind"),
  [
    ("%c = bf16[4,8]{0,1} copy(%p)", "copy"),
    ("%t = bf16[8,4]{1,0} transpose(%p), dimensions={1,0}", "copy"),
    ("%r = f32[4]{0} all-reduce(%q), to_apply=%add", "collective"),
    ("%d = bf16[4,4]{1,0} dot(%p, %p)", "product"),
    ("%n = f32[4]{0} negate(%q)", "other"),
  ],
)
def test_kinds(line, kind):
  (one,) = kernels(line)
  assert one.kind == kind
