# shellcheck shell=sh disable=SC2034,SC2154  # the wrapper that sources this reads them; the profile sets coco_path
# Sourced after the profile: images, annotations and split of DATASET, which is coco (the default) or nocaps.
dataset=${DATASET:-coco}
case $dataset in
    coco)
        split=val2014
        image_folder=$coco_path/$split
        annotations=$coco_path/annotations
        out=$result_path/baselines/$split
        ;;
    nocaps)
        if [ -z "${nocaps_path:-}" ]; then
            echo "error: DATASET=nocaps: PROFILE=$PROFILE has no nocaps (its nocaps_path is empty)" >&2
            exit 2
        fi
        split="out-domain"
        image_folder=$nocaps_path/images/val
        annotations=$nocaps_path/annotations
        out=$result_path/baselines/nocaps_$split
        ;;
    *)
        echo "error: DATASET=$dataset: no such data set; choose one of: coco nocaps" >&2
        exit 2
        ;;
esac
