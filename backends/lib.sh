# What backends/up and backends/down share: names, messages and the Docker engine.
# shellcheck shell=bash disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${MICRO_BACKENDS_CACHE:-/var/cache/micro-backends}
project=micro-backends
label=micro.backends=true    # on every image made here
plugin_link=/usr/local/lib/docker/cli-plugins/docker-compose
env_file=$root/.backends.env
offline_mark=$cache/offline # no image registry was reachable when it was last tried
engine_pid=$cache/dockerd.pid
engine_log=$cache/dockerd.log

umask 022
export DOCKER_BUILDKIT=0 # the builder that needs no plugin
# A checkout's own settings must not leak into the project of the servers.
unset COMPOSE_FILE COMPOSE_PROJECT_NAME COMPOSE_PROFILES

say() { printf '%s\n' "$*"; }

fail() {
  printf 'backends/%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

require_root() {
  [[ $EUID -eq 0 ]] || fail "must run as root: it installs packages and starts the Docker engine"
}

# One run at a time. Whatever outlives the script must close descriptor 9.
take_lock() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock -w 1800 9 || fail "another run has held $cache/lock for half an hour"
}

# wait_until SECONDS COMMAND…
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

# is_running PROGRAM PID: pid files outlive their processes, numbers are used again, and a zombie
# does nothing any more.
is_running() {
  local state
  [[ -n $2 && $(cat "/proc/$2/comm" 2>/dev/null) == "$1" ]] || return 1
  state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$2/status" 2>/dev/null)
  [[ $state != Z ]]
}

is_gone() { ! is_running "$@"; }

pid_in() { cat "$1" 2>/dev/null || true; }

engine_answers() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

own_engine_runs() { is_running dockerd "$(pid_in "$engine_pid")"; }

# stop_process PROGRAM PID: SIGTERM, and SIGKILL half a minute later.
stop_process() {
  is_running "$1" "$2" || return 0
  kill -TERM "$2" 2>/dev/null || true
  wait_until 30 is_gone "$1" "$2" && return
  kill -KILL "$2" 2>/dev/null || true
  wait_until 10 is_gone "$1" "$2" || fail "$1 (pid $2) cannot be stopped"
}

stop_own_engine() {
  local containerd
  own_engine_runs || return 0
  containerd=$(pid_in /var/run/docker/containerd/containerd.pid)
  stop_process dockerd "$(pid_in "$engine_pid")"
  stop_process containerd "$containerd" # outlives a dockerd that had to be killed
  rm -f "$engine_pid"
}

# Takes a compose project down with its volumes, from Docker's labels alone: no compose file is
# read, so none needs its variables.
remove_project() {
  (cd / && timeout 120 docker compose -p "$1" down -v -t 5 --remove-orphans) >/dev/null 2>&1 ||
    fail "cannot take down the compose project $1"
}

# The compose projects that ComposeBackend made, which it names micro-test-…
test_projects() {
  local format='{{.Label "com.docker.compose.project"}}'
  {
    docker ps -a --format "$format"
    docker volume ls --format "$format"
    docker network ls --format "$format"
  } | sort -u | sed -n '/^micro-test-/p'
}

# What tests that were killed left behind.
sweep_tests() {
  local name names
  mapfile -t names < <(test_projects)
  for name in "${names[@]}"; do
    say "removing what a test left behind: $name"
    remove_project "$name"
  done
}
