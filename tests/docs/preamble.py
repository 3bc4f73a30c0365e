"""What a page's program begins with."""

import contextlib as _contextlib
import pprint as _pprint


def _expect(value, shown):
    seen = repr(value)
    if seen != shown and _pprint.pformat(value) != shown:
        raise AssertionError(f"the page shows {shown}, and it is {seen}")


@_contextlib.contextmanager
def _raises(name):
    try:
        yield
    except BaseException as error:
        if name not in [kind.__name__ for kind in type(error).__mro__]:
            raise
    else:
        raise AssertionError(f"the page says that this raises {name}")
