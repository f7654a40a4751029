"""Resources, leases with fencing epochs, safety, drivers. Never imports torch, mujoco, zarr or ray."""
