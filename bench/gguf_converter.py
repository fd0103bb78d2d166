"""Runs llama.cpp's own converter on folders without a tokenizer, in a process that needs no Hyla.

    PYTHON bench/gguf_converter.py CONVERTER FOLDER FILE [FOLDER FILE ...]

CONVERTER: a checkout of llama.cpp, of which convert_hf_to_gguf.py and the packages beside it are used. Everything is
its own code but the vocabulary, which becomes "none" of the config's size: the models of the check are tiny and have
none. A folder that it cannot convert leaves no file; its error is printed.
"""

import sys
import traceback
from pathlib import Path


def without_vocabulary(model) -> None:
    """No texts, but their number, which llama.cpp wants to know."""
    model._set_vocab_none()
    writer = model.gguf_writer
    if not any(key.endswith(".vocab_size") for keys in writer.kv_data for key in keys):
        writer.add_vocab_size(model.hparams["vocab_size"])
        writer.add_vocab_size = lambda count: None  # some kinds say it themselves, later


def main() -> None:
    """Convert folders to float32 files."""
    converter, *places = map(Path, sys.argv[1:])
    sys.path[:0] = [str(converter / "gguf-py"), str(converter)]
    import conversion
    import gguf
    import torch
    from conversion.base import ModelBase, ModelType, get_model_architecture

    for folder, file in zip(places[::2], places[1::2]):
        file.unlink(missing_ok=True)
        hparams = ModelBase.load_hparams(folder, False)
        kind = conversion.get_model_class(get_model_architecture(hparams, ModelType.TEXT), mmproj=False)
        kind.set_vocab = without_vocabulary
        kind._get_suppress_tokens = lambda model: None  # asks the tokenizer
        kind.no_mtp = hparams.get("mtp_num_hidden_layers", hparams.get("num_nextn_predict_layers")) == 0
        try:
            with torch.inference_mode():
                kind(folder, gguf.LlamaFileType.ALL_F32, file, model_name="tiny").write()
        except Exception:
            file.unlink(missing_ok=True)
            print(f"{folder.name}: {traceback.format_exc()}", file=sys.stderr)


if __name__ == "__main__":
    main()
