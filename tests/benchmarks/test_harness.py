"""How sides are timed in turn."""

from benchmarks import harness


def test_sides_take_turns_and_of_two_calls_the_second_counts():
  order = []
  calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
  times = harness.interleaved(calls, 3)
  assert order == ["a", "b"] + ["a", "a", "b", "b"] * 3
  assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}


def test_a_limit_ends_it_after_five_rounds():
  assert len(harness.interleaved({"a": lambda: None}, 9, limit_s=0.0)["a"]) == 5
