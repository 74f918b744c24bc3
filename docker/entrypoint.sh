#!/bin/sh
# What is typed after the image's name is a command of `segmentation`, or one of the programs below.
set -eu

kib=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $2 }')
if [ "${kib:-0}" -lt 1000000 ]; then
  echo "warning: /dev/shm holds $((${kib:-0} / 1024)) MiB, and loading processes hand batches over" \
    "in it: start the container with --shm-size 8g (or --ipc host), or train with" \
    "--data.num_workers 0" >&2
fi

# exec: signals reach the program itself
case "${1:-}" in
  bash | sh | python | wandb) exec "$@" ;;
  *) exec segmentation "$@" ;;
esac
