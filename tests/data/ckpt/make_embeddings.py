#!/usr/bin/env python3
"""Makes a1111.pt, compvis.pt and hostile.pt: textual-inversion embeddings as A1111 (modules/textual_inversion,
Embedding.save) and the first textual-inversion code (a ParameterDict) save them, two vectors of 64 numbers (i / 64 - 1);
and one whose vectors come out of a call. Written by torch 2.15. python3 tests/data/ckpt/make_embeddings.py DIR"""
import os
import sys

import torch

VECTORS = (torch.arange(128).reshape(2, 64) / 64 - 1).contiguous()


class Call:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def main(folder):
    info = {"string_to_token": {"*": 265}, "name": "zzword", "step": 499,
            "sd_checkpoint": "6ce0161689", "sd_checkpoint_name": "v1-5-pruned-emaonly"}
    torch.save({**info, "string_to_param": {"*": VECTORS}}, f"{folder}/a1111.pt")
    torch.save({"string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS)})}, f"{folder}/compvis.pt")
    torch.save({**info, "string_to_param": {"*": VECTORS}, "hash": Call()}, f"{folder}/hostile.pt")


main(sys.argv[1])
