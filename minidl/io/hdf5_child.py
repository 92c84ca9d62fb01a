"""Reads an HDF5 file under limits: a script for a process of its own, which may crash.

`python hdf5_child.py FILE BYTES SECONDS` writes to its output a line of JSON, {"arrays": [[name,
whether bfloat16], …], "model_config": text or null, "layer_names": [name, …]}, and each array as
NumPy's .npy, BYTES in all at most, computing for SECONDS at most. It exits with the reason as its
last line of stderr when the file asks for more, is damaged, or leads to other files or plug-ins.
"""

import json
import resource
import sys
from typing import Any

ADDRESSES = 2**31  # bytes
FILTERS = {1, 2, 3, 32000}  # deflate, shuffle, fletcher32, and h5py's own lzf


def main(path: str, most: int, seconds: int) -> None:
    """Read the file at `path`: `most` bytes of arrays, and `seconds` of computing, at the most."""
    limits = {
        resource.RLIMIT_AS: ADDRESSES,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 2 * most,  # of its output; .npy has short headers
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, hard))  # to the hard one, processor time ends unnamed
    import h5py
    import numpy as np

    with h5py.File(path, "r", locking=False) as file:
        config = file.attrs.get("model_config")
        config = config.decode() if isinstance(config, bytes) else config
        names = array_names(file)
        for name in names:
            most -= checked_size(name, file[name])
            refuse(most < 0, "its arrays are far larger than the file")
        arrays = [[name, file[name].dtype.kind == "V"] for name in names]
        order = file.get("model_weights", file).attrs.get("layer_names", ())
        layers = [n.decode() if isinstance(n, bytes) else str(n) for n in np.ravel(order).tolist()]
        head = {"arrays": arrays, "model_config": config, "layer_names": layers}
        sys.stdout.buffer.write(json.dumps(head, ensure_ascii=False).encode() + b"\n")
        for name in names:
            array = np.asarray(file[name][()])
            np.save(sys.stdout.buffer, array.view("<u2") if array.dtype.kind == "V" else array)


def array_names(file: Any) -> list[str]:
    """Names of all data sets, in groups as "group/name"; links to elsewhere are refused."""
    import h5py

    links: dict[str, Any] = {}
    file.visititems_links(links.__setitem__)
    for name, link in links.items():
        refuse(not isinstance(link, h5py.HardLink), f"{name!r} is a link to elsewhere")
    return [name for name in links if isinstance(file[name], h5py.Dataset)]


def checked_size(name: str, data: Any) -> int:
    """Bytes of a data set, once it is known to be numbers stored in this file."""
    refuse(data.is_virtual or data.external, f"the data of {name!r} are in other files")
    plan = data.id.get_create_plist()
    filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
    refuse(filters - FILTERS, f"{name!r} is packed with filters that need a plug-in")
    bfloat16 = data.dtype == "V2" and data.attrs.get("dtype") == "bfloat16"
    refuse(data.shape is None or not (data.dtype.kind in "biufc" or bfloat16),
           f"{name!r} holds no numbers that NumPy has")  # fmt: skip
    return data.size * data.dtype.itemsize


def refuse(bad: object, reason: str) -> None:
    """End the process with a reason if `bad`."""
    if bad:
        sys.exit(reason)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
