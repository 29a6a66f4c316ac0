"""What the documents repeat from the code is what the code has now."""

from benchmarks import documents


def test_the_pages_are_those_that_make_docs_writes() -> None:
    assert documents.OPTIONS.read_text(encoding="utf-8") == documents.options_page()
    assert documents.LAYOUT.read_text(encoding="utf-8") == documents.layout_page()


def test_the_tree_has_a_sentence_for_every_file() -> None:
    lines = documents.tree().splitlines()[1:-1]
    names = [path.name for path in documents.modules().values() if path.name != "__init__.py"]
    assert sorted(line.split()[0] for line in lines if line.startswith("  ")) == sorted(names)
    assert [line for line in lines if len(line.split()) <= 2] == []
