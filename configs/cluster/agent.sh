#!/usr/bin/env bash
# One agent of a sweep, in a job of any cluster. Exit status 143: it was asked to stop, and goes on
# where it stopped when it is started again.
#
#   WANDB_SWEEP=entity/project/id agent.sh               an agent of W&B (WANDB_API_KEY or a login)
#   SWEEP=FILE STORAGE=DIR agent.sh [--data.root=DIR …]  an agent of `segmentation sweep run`, whose
#                                                        runs get the arguments
#   AGENTS=4                                             of these, so many beside each other: they
#                                                        share cores and GPUs
#   REQUEUE="scontrol requeue ID"                        what to do before exit status 143
set -u

agent=''
told=''
tell() {
  # W&B's agent hands TERM on to its run and ends; after USR1 it would begin another run.
  local signal=$1
  if [ -n "${WANDB_SWEEP:-}" ]; then signal=TERM; fi
  told=$signal
  if [ -n "$agent" ]; then kill -s "$signal" "$agent" 2>/dev/null; fi
}
trap 'tell TERM' TERM
trap 'tell USR1' USR1

if [ -n "${WANDB_SWEEP:-}" ]; then
  wandb agent --forward-signals "$WANDB_SWEEP" &
else
  segmentation sweep run "${SWEEP:?set SWEEP, or WANDB_SWEEP}" \
    --storage "${STORAGE:?set STORAGE}" --agents "${AGENTS:-1}" -- "$@" &
fi
agent=$!
if [ -n "$told" ]; then tell "$told"; fi # came before there was an agent

wait "$agent"
status=$?
while kill -0 "$agent" 2>/dev/null; do # a signal ends `wait`, not the agent
  wait "$agent"
  status=$?
done
if [ -n "$told" ]; then status=143; fi
if [ "$status" -eq 143 ] && [ -n "${REQUEUE:-}" ]; then
  $REQUEUE || echo "not requeued: submit the job again to go on" >&2
fi
exit "$status"
