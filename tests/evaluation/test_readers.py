"""The paper's Table 3, from counts and from answers."""

import pytest

from hiresmed_jax.errors import UserError
from hiresmed_jax.evaluation import readers, sections

COUNTS = "Reader,TP,FN,FP,TN\nsenior,85,15,55,45\nintermediate,65,35,55,45\n"


def answers(*, ratings=False):
  """The same counts image by image, real ones first."""
  lines = ["reader,image,truth,answer" + (",rating" if ratings else "")]
  for reader, (tp, fp) in {"senior": (85, 55), "intermediate": (65, 55)}.items():
    for i in range(200):
      real = i < 100
      said = "real" if (i < tp if real else i - 100 < fp) else "synthetic"
      rating = f",{5 - i % 5}" if ratings else ""
      lines.append(f"{reader},scan-{i},{'real' if real else 'synthetic'},{said}{rating}")
  return "\n".join(lines) + "\n"


@pytest.mark.parametrize("text", [COUNTS, answers()])
def test_the_papers_table(tmp_path, text):
  (tmp_path / "study.csv").write_text(text)
  found = readers.study(tmp_path / "study.csv")
  senior, other = (found["readers"][name]["reading"] for name in ("senior", "intermediate"))
  assert [round(r.sensitivity.value, 3) for r in (senior, other)] == [0.85, 0.65]
  assert [round(r.accuracy.value, 3) for r in (senior, other)] == [0.65, 0.55]
  assert [round(r.kappa.value, 3) for r in (senior, other)] == [0.3, 0.1]
  page = "\n".join(sections.reader_study(found))
  assert "it is not shown that the reader can tell" in page
  assert "It compares two errors" in page
  assert "85.0%" in page
  assert "scan-" not in page
  if text is COUNTS:
    assert "counts do not tell" in page
  else:
    ((_, _, agreement),) = found["pairs"]
    assert agreement.same.value == pytest.approx(0.9)  # 20 real images apart
    assert "kappa between the readers" in page


def test_ratings_give_an_area(tmp_path):
  (tmp_path / "study.csv").write_text(answers(ratings=True))
  found = readers.study(tmp_path / "study.csv")
  assert found["readers"]["senior"]["auc"] == pytest.approx(0.5)


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("a,b\n1,2\n", "it needs columns reader,tp,fn,fp,tn"),
    ("reader,tp,fn,fp,tn\nx,1,2,3,many\n", "invalid literal"),
    ("reader,image,truth,answer\nx,1,real,maybe\n", "line 2: 'maybe' is neither"),
    ("reader,image,truth,answer\nx,1,real,real\nx,1,real,real\n", "line 3: this reader"),
    ("reader,image,truth,answer\nx,1,real,real\ny,1,synthetic,real\n", "differ on whether"),
    ("", "it needs columns"),
  ],
)
def test_what_is_wrong_is_told_in_a_line(tmp_path, text, line):
  (tmp_path / "study.csv").write_text(text)
  with pytest.raises(UserError, match=line):
    readers.study(tmp_path / "study.csv")
  with pytest.raises(UserError, match="cannot be read"):
    readers.study(tmp_path / "none.csv")
