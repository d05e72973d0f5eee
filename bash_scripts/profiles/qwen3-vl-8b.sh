# Qwen3-VL-8B-Instruct; bash_scripts/attribute.sh finds its heads.
model_path=checkpoints/Qwen3-VL-8B-Instruct
result_path=results/coco/qwen3-vl-8b
