"""Functions of ours as operators of torch: apart from each other, and named alike in every process."""

import torch

from model_worker.torch_engine.opaque_operator import OpaqueOperator


class Adder:
    def __init__(self, addend):
        self.addend = addend

    def __call__(self, x):
        return x + self.addend


def operator(compute):
    return OpaqueOperator("add_something", "(Tensor x) -> Tensor", compute, torch.empty_like)


def test_operators_of_one_name_stay_apart():
    one, two = operator(Adder(1)), operator(Adder(2))
    assert (one.call(torch.tensor(0)), two.call(torch.tensor(0))) == (1, 2)
    one.close()
    two.close()


def test_the_same_names_come_in_the_same_order_again_so_that_compiled_code_is_found_in_the_cache():
    def names():
        made = [operator(Adder(number)) for number in range(2)]
        found = [str(each.call) for each in made]
        for each in made:
            each.close()
        return found

    assert names() == names()
