"""Train and export contrastive routers.

::

    python -m training.contrastive cscr --data DIR --encoder form --out DIR
    python -m training.contrastive routerdc --data DIR --encoder minilm --out DIR
    python -m training.contrastive export --out DIR/encoder

A run that was broken off goes on from its checkpoint when it is started again with the same arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llmrouter.outcomes import load_table
from llmrouter.registry import parse_spec
from training.contrastive._routerdc import EndToEnd, read_scores, train_routerdc
from training.contrastive._runs import train_cscr
from training.contrastive._trainer import TrainingSettings
from training.contrastive.export import export_head


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, encoder, rate, batch, epochs in (("cscr", "form", 3e-3, 256, 30), ("routerdc", "minilm", 5e-5, 64, 8)):
        run = commands.add_parser(name, help=f"train {name}")
        run.add_argument("--data", type=Path, required=True, help="folder of a data set")
        run.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, encoder, artifact")
        run.add_argument("--encoder", default=encoder, help=f"default: {encoder}")
        run.add_argument("--set", default="", metavar="KEY=VALUE,...", help="parameters of the router")
        run.add_argument("--epochs", type=int, default=epochs, help="at most")
        run.add_argument("--patience", type=int, default=4, help="epochs without a better held-out loss")
        run.add_argument("--batch", type=int, default=batch)
        run.add_argument("--steps", type=int, default=0, help="steps an epoch at most; 0: all prompts")
        run.add_argument("--learning-rate", type=float, default=rate)
        run.add_argument("--decay", type=float, default=0.01)
        run.add_argument("--held-out", type=float, default=0.2, help="share of the train split")
        run.add_argument("--seed", type=int, default=0)
        if name == "routerdc":
            run.add_argument("--longest", type=int, default=128, help="tokens of a text at most")
            run.add_argument("--most-prompts", type=int, default=0, help="prompts to train on; 0: all")
            run.add_argument("--tasks", default="", metavar="TASK,...", help="tasks to train on (default: all)")
            run.add_argument("--model-rate", type=float, default=0.0, help="of the model embeddings; 0: the encoder's")
            run.add_argument("--part", type=int, default=0, help="texts of like length encoded at once; 0: the batch")
            run.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
            run.add_argument("--scores", help="column of outcomes.parquet to contrast by (default: the outcomes)")
    export = commands.add_parser("export", help="export a trained head to ONNX again")
    export.add_argument("--out", type=Path, required=True, help="folder of the head")
    chosen = parser.parse_args(arguments)
    if chosen.command == "export":
        print(f"{chosen.out}: largest difference {export_head(chosen.out):.1e}")
        return
    names = ("epochs", "patience", "batch", "steps", "learning_rate", "decay", "held_out", "seed")
    settings = TrainingSettings(**{name: getattr(chosen, name) for name in names})
    table, (_, parameters) = load_table(chosen.data), parse_spec(f"router:{chosen.set}")
    common = {"encoder": chosen.encoder, "settings": settings, "parameters": parameters}
    if chosen.command == "cscr":
        train_cscr(table, chosen.out, **common)
    else:
        way = EndToEnd(
            longest=chosen.longest, most_prompts=chosen.most_prompts, model_rate=chosen.model_rate, part=chosen.part,
            tasks=tuple(task for task in chosen.tasks.split(",") if task), bf16=chosen.bf16,
        )  # fmt: skip
        scores = read_scores(chosen.data, table, chosen.scores) if chosen.scores else None
        train_routerdc(table, chosen.out, **common, way=way, scores=scores)


if __name__ == "__main__":
    main()
