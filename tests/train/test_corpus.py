import pytest
from tiny_run import write_text_folder

from hyla.errors import ConfigError
from hyla.train.corpus import is_heldout, read_corpus
from hyla.train.tokenizer import END_OF_TEXT, encode_documents, train_tokenizer


def test_no_file_is_trained_on_and_held_out(tmp_path):
    corpus = read_corpus(write_text_folder(tmp_path / "text"), heldout_share=0.3)
    train, heldout = {d.name for d in corpus.train}, {d.name for d in corpus.heldout}
    assert train and heldout and not train & heldout
    assert train | heldout == {"inner/part0.py", *(f"part{n}.py" for n in range(1, 8))}


def test_a_new_file_moves_no_other_file(tmp_path):
    folder = write_text_folder(tmp_path / "text")
    before = read_corpus(folder, heldout_share=0.3)
    (folder / "new.txt").write_text("something else\n")
    after = read_corpus(folder, heldout_share=0.3)
    assert {d.name for d in before.heldout} <= {d.name for d in after.heldout} | {"new.txt"}
    assert {d.name for d in before.train} <= {d.name for d in after.train}
    assert before.fingerprint != after.fingerprint


def test_the_held_out_share_is_kept_on_average():
    held = sum(is_heldout(f"folder/file{n}.py", 0.2) for n in range(2000))
    assert 320 < held < 480


def test_binary_hidden_and_empty_files_are_skipped(tmp_path):
    folder = write_text_folder(tmp_path / "text", num_files=3)
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / "latin.txt").write_bytes(b"\xe9\xe8 not UTF-8")
    (folder / "empty.txt").write_text("  \n")
    (folder / ".hidden.txt").write_text("secret")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.txt").write_text("cached")
    corpus = read_corpus(folder)
    assert {d.name for d in (*corpus.train, *corpus.heldout)} == {"inner/part0.py", "part1.py", "part2.py"}


def test_a_folder_without_text_is_one_clear_error(tmp_path):
    (tmp_path / "only.bin").write_bytes(b"\0\1")
    with pytest.raises(ConfigError, match="holds 0 readable UTF-8 text files"):
        read_corpus(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_corpus(tmp_path / "absent")


def test_the_tokenizer_is_a_function_of_the_documents_and_knows_every_byte(tmp_path):
    documents = read_corpus(write_text_folder(tmp_path / "text")).train
    first, second = (train_tokenizer(documents, 300, 1024) for _ in range(2))
    assert first.backend.to_str() == second.backend.to_str()
    assert first.vocab_size == 300
    text = "naïve \t🙂\r\n" + bytes(range(32, 127)).decode()
    assert first.decode(first.encode(text)) == text


def test_a_special_token_spelled_in_a_document_stays_text(tmp_path):
    folder = write_text_folder(tmp_path / "text", num_files=2)
    (folder / "trap.py").write_text(f"before {END_OF_TEXT} after\n")
    documents = read_corpus(folder, heldout_share=0.01)
    tokenizer = train_tokenizer(documents.train, 280, 1024)
    for ids in encode_documents(tokenizer, (*documents.train, *documents.heldout)):
        assert ids[0] == ids[-1] == 0
        assert 0 not in ids[1:-1]
