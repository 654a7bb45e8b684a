from tests.model.support import one_thread

__all__ = ["one_thread"]
