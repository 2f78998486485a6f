#!/usr/bin/env bash
# Runs a command on every host of a Cloud TPU pod slice: see
# docs/partitioning.md, and docs/t5x.md.
#
#   scripts/launch_tpu_pod.sh ACTION --name POD --zone ZONE [options] [-- COMMAND]
#
# start -- COMMAND   in a tmux session on each host, with a log; a command that
#                    fails is started again, and so resumes from its last save;
#                    exit status 2, bad input, ends it: that would fail again
# exec -- COMMAND    in the foreground, for installing
# status             running or stopped, and the log's last line
# logs               the log's last 50 lines
# stop               ends the session, and what runs in it
#
# --name, --zone   of the slice
# --project P      of Google Cloud (default: gcloud's own)
# --worker W       one host's number instead of all
# --dir DIR        where the command runs, from the home folder (coda_jax)
# --session S      of tmux; the log is DIR/S.log (coda)
# --restarts N     how often a command that failed is started again (100)
# --delay S        seconds before it is (30)
# --dry_run        print what would be run, and run nothing
set -euo pipefail

fail() {
  echo "launch_tpu_pod.sh: $1; see the head of $0" >&2
  exit 2
}

action=${1:-}
[[ $action =~ ^(start|exec|status|logs|stop)$ ]] ||
  fail "action '$action'; expected start, exec, status, logs or stop"
shift

name='' zone='' project='' worker=all dir=coda_jax session=coda
restarts=100 delay=30 dry_run=false
while (($#)); do
  case $1 in
    --dry_run) dry_run=true ;;
    --) break ;;
    --name | --zone | --project | --worker | --dir | --session | --restarts | \
      --delay)
      (($# > 1)) || fail "$1 lacks its value"
      declare "${1#--}=$2"
      shift
      ;;
    *) fail "no option '$1' (the command follows --)" ;;
  esac
  shift
done
[[ -n $name ]] || fail "--name is required"
[[ -n $zone ]] || fail "--zone is required"
[[ $session =~ ^[A-Za-z0-9_-]+$ ]] ||
  fail "--session '$session'; expected letters, digits, - and _"
[[ $restarts =~ ^[0-9]+$ && $delay =~ ^[0-9]+$ ]] ||
  fail "--restarts '$restarts', --delay '$delay'; expected whole numbers"

command=
if [[ $action == start || $action == exec ]]; then
  [[ ${1:-} == -- && $# -gt 1 ]] || fail "'$action' needs -- COMMAND"
  shift
  # Quoted, since it goes through a shell on the host.
  printf -v command '%q ' "$@"
elif (($#)); then
  fail "'$action' takes no command"
fi

printf -v folder '%q' "$dir"
log=$session.log
case $action in
  start)
    # The hosts of a slice fail and start again together: jax ends them all when
    # one is lost.
    loop="for try in \$(seq 0 $restarts); do
  echo \"launch_tpu_pod.sh: try \$try, \$(date)\"
  $command&& break
  status=\$?
  if ((status == 2)); then
    echo 'launch_tpu_pod.sh: exit status 2, bad input: correct it, start again'
    break
  fi
  sleep $delay
done >>$log 2>&1"
    printf -v loop '%q' "$loop"
    remote="mkdir -p $folder && cd $folder || exit
if tmux has-session -t $session 2>/dev/null; then
  echo 'a session $session is running; stop it first' >&2
  exit 1
fi
tmux new-session -d -s $session bash -c $loop"
    ;;
  exec) remote="mkdir -p $folder && cd $folder && $command" ;;
  status)
    remote="tmux has-session -t $session 2>/dev/null && echo running ||
echo stopped
tail -n 1 $folder/$log"
    ;;
  logs) remote="tail -n 50 $folder/$log" ;;
  stop) remote="tmux kill-session -t $session" ;;
esac

ssh=(gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone")
[[ -z $project ]] || ssh+=("--project=$project")
ssh+=("--worker=$worker" "--command=$remote")
if $dry_run; then
  printf '%q ' "${ssh[@]}"
  echo
else
  exec "${ssh[@]}"
fi
