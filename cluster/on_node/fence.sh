#!/bin/sh
# The node's side of clusterctl's lock; cluster/lock/PROTOCOL.md is what it does and why.
#
#   acquire EPOCH TOKEN EXPIRES BOOT TTL OVER ABOUT    take the lease
#   renew   EPOCH TOKEN EXPIRES                        hold it longer
#   release EPOCH TOKEN SETTLED                        end it
#   guard   EPOCH TOKEN COMMAND...                     run a command, if this lease is live
#   put     EPOCH TOKEN PATH MODE SIZE                 write a file from stdin, if this lease is live
#
# Times are hundredths of a second of this node's /proc/uptime. Exit code 91: refused.
set -u
theirs=$(umask)
umask 077

here=${0%/*}
state=$here/lock
inflight=$here/inflight
refused=91

main() {
    verb=$1
    shift
    command -v flock >/dev/null || complain 'flock(1) is missing: install util-linux'
    [ -d "$inflight" ] || mkdir -p "$inflight" || complain "cannot write $inflight"
    read -r boot_now </proc/sys/kernel/random/boot_id
    case $verb in
        acquire | renew | release)
            only_one
            read_state
            previous=$([ -f "$state" ] && cat "$state")
            "$verb" "$@"
            ;;
        guard | put)
            enter "$1" "$2"
            shift 2
            "$verb" "$@"
            ;;
        *) complain "$verb is none of its commands" ;;
    esac
}

complain() {
    printf 'clusterctl fence: %s\n' "$1" >&2
    exit "$refused"
}

# What the controller reads: the answer, this node's clock, and the state as it was before.
answer() {
    read_clock
    printf 'answer=%s\nnow=%s\nboot_now=%s\n%s\n' "$1" "$now" "$boot_now" "$previous"
    if [ "$1" = ok ]; then exit 0; else exit "$refused"; fi
}

read_clock() {
    IFS='. ' read -r seconds hundredths _ </proc/uptime
    now=$seconds$hundredths
}

# One acquire, renew or release at a time. A folder that was removed meanwhile is nobody's lock.
only_one() {
    exec 9>>"$inflight/.mutex" || complain "cannot write $inflight"
    flock -x -w 10 9 || complain 'another command holds the node for more than 10 s'
    [ /proc/self/fd/9 -ef "$inflight/.mutex" ] || complain 'its folder was removed meanwhile'
}

read_state() {
    epoch=0 token='' expires=0 boot='' ttl=0 released=1 settled=0 about=''
    [ -f "$state" ] || return 0
    while IFS= read -r line; do
        value=${line#*=}
        case $line in
            epoch=*) epoch=$value ;;
            token=*) token=$value ;;
            expires=*) expires=$value ;;
            boot=*) boot=$value ;;
            ttl=*) ttl=$value ;;
            released=*) released=$value ;;
            settled=*) settled=$value ;;
            *) about="$about$line
" ;;
        esac
    done <"$state"
    case $epoch$expires$released in
        *[!0-9]*) complain "$state is damaged: look at it, and remove it if nobody is at work" ;;
    esac
}

# Under another name first: a reader, and a node that loses power, have the old state or the next one.
write_state() {
    printf 'epoch=%s\ntoken=%s\nexpires=%s\nboot=%s\nttl=%s\nreleased=%s\nsettled=%s\n%s' \
        "$epoch" "$token" "$expires" "$boot" "$ttl" "$released" "$settled" "$about" >"$state.part" ||
        complain "cannot write $state"
    if [ "$1" = durably ]; then sync "$state.part"; fi
    mv "$state.part" "$state" || complain "cannot write $state"
    if [ "$1" = durably ]; then sync "$here"; fi
}

# Why this lease is not live, in one word; nothing where it is.
why_not() {
    read_clock
    if [ "$epoch" != "$1" ] || [ "$token" != "$2" ]; then
        echo superseded
    elif [ "$released" != 0 ]; then
        echo released
    elif [ "$boot" != "$boot_now" ]; then
        echo rebooted
    elif [ "$now" -ge "$expires" ]; then
        echo expired
    fi
}

acquire() {
    [ "$4" = "$boot_now" ] || answer rebooted
    why=$(why_not "$epoch" "$token")
    if [ -z "$why" ] && [ "$token" != "$6" ]; then answer held; fi
    [ "$1" -gt "$epoch" ] || answer stale
    read_clock
    [ "$3" -gt "$now" ] || answer late
    revoke
    epoch=$1 token=$2 expires=$3 boot=$4 ttl=$5 released=0 settled=0 about=$7
    write_state durably
    answer ok
}

# From here on no command of an older epoch begins, and what runs is killed; then nothing of it is left.
revoke() {
    if [ "$epoch" -gt 0 ]; then
        released=1 settled=0
        write_state quickly
    fi
    exec 8>>"$inflight/.running"
    tries=0
    until flock -x -w 0.1 8 && ! kill_what_runs; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || complain 'a command of the former holder does not end, not even by SIGKILL'
        kill_what_runs && sleep 0.05
    done
}

# Whether anything was there to be killed: what got the signal may take a moment to end.
kill_what_runs() {
    found=1
    for note in "$inflight"/[0-9]*; do
        [ -f "$note" ] || continue
        read -r group started booted <"$note" || continue
        if [ "$booted" = "$boot_now" ] && is_theirs "$group" "$started" && has_members "$group"; then
            kill -s KILL -- "-$group" 2>/dev/null
            found=0
        else
            rm -f "$note"
        fi
    done
    return "$found"
}

# A group whose leader is gone keeps its number as long as it has members; one whose leader is another
# process than the one that was noted is somebody else's.
is_theirs() {
    ! read_process "$1" || [ "$start" = "$2" ]
}

# Zombies do not count: their parent may be a controller that sleeps.
has_members() {
    for process in /proc/[0-9]*; do
        if read_process "${process#/proc/}" && [ "$pgrp" = "$1" ]; then
            case $status in [ZX]) ;; *) return 0 ;; esac
        fi
    done
    return 1
}

# proc_pid_stat(5), fields 3, 5, 6 and 22; counted behind the name, in which there may be spaces.
read_process() {
    read -r line 2>/dev/null <"/proc/$1/stat" || return 1
    # shellcheck disable=SC2086  # its fields are words
    set -- ${line##*) }
    status=$1 pgrp=$3 session=$4
    shift 19
    start=$1
}

renew() {
    why=$(why_not "$1" "$2")
    [ -z "$why" ] || answer "$why"
    read_clock
    [ "$3" -gt "$now" ] || answer late
    if [ "$3" -gt "$expires" ]; then expires=$3; fi
    write_state quickly
    answer ok
}

release() {
    if [ "$epoch" != "$1" ] || [ "$token" != "$2" ]; then answer superseded; fi
    released=1 settled=$3
    write_state quickly
    answer ok
}

# The shared lock is held until the command has ended, and the lease is looked at only then: an acquire waits
# for all who hold it, so none can begin behind its back.
enter() {
    exec 8>>"$inflight/.running" || complain "cannot write $inflight"
    flock -s -w 15 8 || complain 'refused: another takes the lock'
    read_state
    why=$(why_not "$1" "$2")
    [ -z "$why" ] || complain "refused: $why"
}

# The group is noted, for whoever takes the lock. sshd gives every command a session of its own, and so a group;
# its leader may be a login shell around this one.
guard() {
    read_process $$
    group=$pgrp
    [ "$group" = "$session" ] || complain 'refused: its process group is not its own'
    read_process "$group" || start=gone
    echo "$group $start $boot_now" >"$inflight/$$" || complain "cannot write $inflight"
    umask "$theirs"
    env "$@" 8>&-
    code=$?
    rm -f "$inflight/$$"
    exit "$code"
}

put() {
    # shellcheck disable=SC2016  # the inner shell expands them
    guard sh -c '
        umask 077
        case $1 in */*) mkdir -p "${1%/*}" && part=${1%/*}/.${1##*/}.part ;; *) part=.$1.part ;; esac
        cat >"$part" && [ "$(wc -c <"$part")" -eq "$3" ] && chmod "$2" "$part" && mv "$part" "$1"' put "$@"
}

main "$@"
