# Qwen2.5-VL-7B-Instruct; bash_scripts/attribute.sh finds its heads.
model_path=checkpoints/Qwen2.5-VL-7B-Instruct
result_path=results/coco/qwen2.5-vl-7b
