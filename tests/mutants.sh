#!/bin/sh
# mutants.sh - shows that the tests can fail.
#
# Breaks a copy of the sources, one line of tests/mutants.txt at a time, and
# runs the tests that ought to notice. Fails when a mutant survives, when it
# does not apply or does not build, or when the tests are red to begin with.
# Usage, in the repository root: tests/mutants.sh [SUBSTRING of the file name]
# MUTANTS: another list. FROM: a folder of build/ whose objects, with those of build/release,
# to start from (make emu-mutants).
# FIRST: only the first mutant under each comment of the list, for where time is short;
# the tests are then taken to pass without a mutant.
set -u
list=${MUTANTS:-tests/mutants.txt}
config=${FROM:-mutants}
copy=build/mutants
log=$copy/log

rm -rf $copy
mkdir -p $copy || exit 1
tar -cf - --exclude=./build --exclude=./.git --exclude=./sdc . | tar -xf - -C $copy || exit 1
[ -z "${FROM-}" ] || { mkdir $copy/build && cp -a build/$config build/release $copy/build; } ||
    exit 1

# Puts file $1 back, with the objects that were made of it where they are at hand.
restore() {
    if [ -z "${FROM-}" ] || [ "${1%.h}" != "$1" ]; then cp "$1" $copy/"$1"
    else cp -p "$1" $copy/"$1" && cp -a build/$config/"${1%.*}".*o $copy/build/$config/"${1%/*}"
    fi
}
build() { make -s -j"$(nproc)" -C $copy CONFIG=$config build/$config/test >$log 2>&1; }
run() { (cd $copy && timeout 300 build/$config/test "$@") >$log 2>&1; }

build || { cat $log; echo "mutants: the sources do not build"; exit 1; }
# shellcheck disable=SC2046
[ -n "${FIRST-}" ] || run $(grep -v '^#' $list | awk 'NF { print $2 }' | sort -u) ||
    { tail -20 $log; echo "mutants: the tests fail without a mutant"; exit 1; }

killed=0 bad=0 first=yes
while read -r file tests expression; do
    case $file in '') continue ;; \#*) first=yes; continue ;; *"${1-}"*) ;; *) continue ;; esac
    [ -n "$first" ] || [ -z "${FIRST-}" ] || continue
    first=
    sed "$expression" "$file" >$copy/"$file"
    if cmp -s "$file" $copy/"$file"; then
        printf '%s\n' "DOES NOT APPLY  $file  $expression"
        bad=$((bad + 1))
    elif ! build; then
        printf '%s\n' "DOES NOT BUILD  $file  $expression"
        bad=$((bad + 1))
    elif run "$tests"; then
        printf '%s\n' "SURVIVED        $file  $expression"
        bad=$((bad + 1))
    else
        printf '%s\n' "killed          $file  $expression"
        killed=$((killed + 1))
    fi
    restore "$file"
done <$list
echo "$killed killed, $bad not"
[ $bad -eq 0 ] && [ $killed -gt 0 ]
