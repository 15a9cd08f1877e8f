"""ray_pages.py: one question about a folder of pictures, through a pool of smolvlm processes, by Ray Data.

    python examples/ray_pages.py MODEL "What is the total?" PICTURES ANSWERS [--workers 4] [--smolvlm ./smolvlm]

ANSWERS becomes a folder of JSON lines, one answer for each picture, with its path as id. On a cluster (ray start on
each machine, RAY_ADDRESS set) the same script uses all of it; model, program and pictures must be at the same paths
everywhere. A process that dies is replaced, a worker that dies is started again by Ray, and the batch it had asked
again. Needs ray[data]."""
import argparse
import os
import sys

import ray

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from worker import Worker  # noqa: E402


class Pages:
    """An actor of the pool: it keeps its process, and so the model stays open."""

    def __init__(self, smolvlm, model, question, options):
        self.worker = Worker(smolvlm, model, "-j", "1", *options)
        self.question = question

    def __call__(self, batch):
        answers = [self.worker.ask({"id": path, "prompt": self.question, "images": path}) for path in batch["path"]]
        return {"id": [a["id"] for a in answers], "text": [a.get("text", "") for a in answers],
                "finish_reason": [a.get("finish_reason", "") for a in answers],
                "error": [a.get("error", "") for a in answers]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("question")
    parser.add_argument("pictures")
    parser.add_argument("answers")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--smolvlm", default="./smolvlm")
    parser.add_argument("--max-tokens", default="256")
    args = parser.parse_args()
    folder = os.path.abspath(args.pictures)
    pictures = sorted(os.path.join(folder, name) for name in os.listdir(folder)
                      if name.lower().endswith((".png", ".jpg", ".jpeg", ".ppm", ".pgm")))
    pages = ray.data.from_items([{"path": path} for path in pictures], override_num_blocks=max(1, len(pictures) // 8))
    answers = pages.map_batches(
        Pages, fn_constructor_args=(os.path.abspath(args.smolvlm), os.path.abspath(args.model), args.question,
                                    ["-n", args.max_tokens]),
        batch_size=8, num_cpus=1, concurrency=args.workers)
    answers.write_json(os.path.abspath(args.answers))


if __name__ == "__main__":
    main()
