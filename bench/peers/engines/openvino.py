"""OpenVINO on a folder that optimum-cli exported: the stateful model, given the inputs that it asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.peers.engines.stepwise import Stepwise


class OpenVino(Stepwise):
    def load(self, model: str, *, threads: int, length: int, sequences: int) -> str:
        import openvino

        options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(str(Path(model) / "openvino_model.xml"), "CPU", options)
        self.shapes = {port.any_name: port.partial_shape for port in compiled.inputs}
        self.request = compiled.create_infer_request()
        return f"OpenVINO {openvino.__version__.partition('-')[0]}"

    def clear(self) -> None:
        self.request.reset_state()
        self.depth = 0

    def feed(self, rows: list[list[int]]) -> np.ndarray:
        count, length = len(rows), len(rows[0])
        positions = np.broadcast_to(np.arange(self.depth, self.depth + length, dtype=np.int64), (count, length))
        if len(self.shapes.get("position_ids", ())) == 3:  # one for each axis of an image: text has the same in all
            axes = self.shapes["position_ids"][0]
            positions = np.broadcast_to(positions, (axes.get_length() if axes.is_static else 3, count, length))
        given = {
            "input_ids": np.array(rows, dtype=np.int64),
            "attention_mask": np.ones((count, self.depth + length), dtype=np.int64),
            "position_ids": np.ascontiguousarray(positions),
            "beam_idx": np.arange(count, dtype=np.int32),
        }
        self.request.infer({name: own for name, own in given.items() if name in self.shapes})
        self.depth += length
        return self.request.get_tensor("logits").data[:, -1]


ENGINE = OpenVino
