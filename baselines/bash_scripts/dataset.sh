# shellcheck shell=sh disable=SC2034,SC2154  # the wrapper that sources this reads them; the profile sets the others
# Sourced after the profile: images, annotations, split and result folder of DATASET, which is coco (the default) or nocaps.
keep_own --dataset "give DATASET=nocaps in front" "$@"
dataset=${DATASET:-coco}
case $dataset in
    coco)
        split=val2014
        image_folder=$coco_path/$split
        annotations=$coco_path/annotations
        prefix=
        ;;
    nocaps)
        if [ -z "${nocaps_path:-}" ]; then
            echo "error: DATASET=nocaps: PROFILE=$PROFILE has no nocaps (its nocaps_path is empty)" >&2
            exit 2
        fi
        split="out-domain"
        image_folder=$nocaps_path/images/val
        annotations=$nocaps_path/annotations
        prefix=nocaps_
        ;;
    *)
        echo "error: DATASET=$dataset: no such data set; choose one of: coco nocaps" >&2
        exit 2
        ;;
esac
out=$result_path/baselines/$prefix$(drawn "$split" "$baseline_images" "$draw_seed" "$@")
