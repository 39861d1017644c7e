import pytest


@pytest.fixture(scope="module")
def one_torch_thread():
    """Tiny matrices on a busy machine: two threads waiting for each other take many times longer than one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
