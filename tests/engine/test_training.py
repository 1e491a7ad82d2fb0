import json

import numpy as np

from hook.engine.training import read_curves


def test_curves_of_an_interrupted_run_are_joined(tmp_path):
    for run, losses in (("20260101_000000", {1: 9, 2: 7}), ("20260101_000100", {2: 6, 3: 5})):
        folder = tmp_path / run / "vis_data"
        folder.mkdir(parents=True)
        lines = [dict(loss=v, lr=0.1, epoch=e, iter=e, step=e) for e, v in losses.items()]
        lines.append(dict(mIoU=10.0 * max(losses), time=0.1, data_time=0.0, step=max(losses)))
        (folder / "scalars.json").write_text("\n".join(map(json.dumps, lines)))
    curves = read_curves(tmp_path)
    assert curves.loss.tolist() == [9, 6, 5]
    assert curves.mIoU[2] == 20 and curves.mIoU[3] == 30 and np.isnan(curves.mIoU[1])
