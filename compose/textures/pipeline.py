"""The pipeline of pipeline.toml in Python: three trainers, one pass over 20 GB of crops."""

import zpipe as zp
from services.textures.features import features
from services.textures.judge import Evaluate, Results, Winner
from services.textures.photos import crops
from services.textures.trainer import Train


def pipeline() -> zp.Pipeline:
    x = zp.stage(crops, args={"count": 407_000, "size": 128}, replay="seek")
    x = zp.stage(features, workers=2)(x)
    x = zp.shuffle(256)(x)
    x = zp.batch(64)(x)
    fit = zp.stage(Train, name="fit", args={"hidden": 64}, grid={"lr": [0.1, 0.01, 0.001]}, ordered=True, checkpoint=8)(
        x
    )
    scores = zp.stage(Evaluate, args={"crops": 3000, "size": 128, "seed": 0})(fit)
    results = zp.stage(Results, args={"path": "results.jsonl"})(scores)
    winner = zp.stage(Winner, args={"path": "winner.npz"})(scores)
    return zp.Pipeline("textures", results, winner, defaults={"env": {"OMP_NUM_THREADS": "1"}})


if __name__ == "__main__":
    pipeline().run()
