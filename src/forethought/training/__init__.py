"""DPO on whole outputs: token ids and masks in, a checkpoint out."""
