#!/bin/sh
# Train now and then every LLMROUTER_TRAIN_EVERY_S seconds. What a training run writes takes effect by itself: the
# gateways follow the link "current". A run that fails changes nothing. With LLMROUTER_TRAIN_LOG, the URL of the
# gateways' log, it is trained on that, and promoted if the log shows that it is better than what is live.
set -eu
out=${LLMROUTER_TRAIN_OUT:-/var/lib/llmrouter/artifacts}
data=${LLMROUTER_TRAIN_DATA:-pocket}

# Until the first run has ended the gateways serve with the artifact that ships with the package.
if [ ! -e "$out/current" ]; then
    shipped=$(python -c 'from llmrouter.artifact import default_artifact; print(default_artifact())')
    name=$(basename "$shipped")
    cp -R "$shipped" "$out/.$name" && mv "$out/.$name" "$out/$name"
    ln -s "$name" "$out/current"
fi

while :; do
    if [ -n "${LLMROUTER_TRAIN_LOG:-}" ]; then
        set -- --from-log "$LLMROUTER_TRAIN_LOG" ${LLMROUTER_TRAIN_CONFIG:+--config "$LLMROUTER_TRAIN_CONFIG"}
    else
        set -- --data "$data"
    fi
    llmrouter train "$@" --out "$out" || echo "training failed; the artifact stays as it is" >&2
    sleep "${LLMROUTER_TRAIN_EVERY_S:-86400}"
done
