"""Training by several processes: torchrun or Ray, sharded by FSDP2."""
